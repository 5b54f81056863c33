//! Files that are right, and the types that come of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use handlerd::config::{
    Address, Channel, Config, Embedded, EntryId, Environment, Handler, HandlerLimits,
    InstancePolicy, Loaded, LogFormat, NameTemplate, OrderBy, Output, Overflow, Password, Retries,
    RouteKind, Setting, Source, Start, StreamSource, Target, WhenDone,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn fixture(file: &str) -> PathBuf {
    Path::new(ROOT).join("tests/fixtures/config").join(file)
}

fn load(file: &str, environment: &Environment) -> Loaded {
    Config::load_with(&fixture(file), environment).unwrap_or_else(|errors| panic!("{errors}"))
}

fn full() -> Config {
    let credentials = fixture("credentials").into_os_string();
    let environment = [("EU_USER", "handlerd".into()), ("CREDENTIALS_DIRECTORY", credentials)];
    let loaded = load("valid/full.toml", &environment.into_iter().collect());
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.config
}

fn channel<'c>(config: &'c Config, name: &str) -> &'c Channel {
    config.channels.iter().find(|channel| &*channel.name == name).expect(name)
}

fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

fn parts(connection: &str, parts: &[&str]) -> Target {
    Target { connection: connection.into(), name: NameTemplate::Parts(names(parts)) }
}

fn fixed(connection: &str, name: &str) -> Target {
    Target { connection: connection.into(), name: NameTemplate::Fixed(name.into()) }
}

#[test]
fn connections_are_read() {
    let config = full();
    let redis = &config.redis;
    assert_eq!(&*redis.name, "redis");
    assert_eq!(redis.address.to_string(), "rediss://redis.example.com:6380");
    assert_eq!(redis.database, 2);
    assert_eq!(redis.username.as_deref(), Some("handlerd"));
    assert_eq!(redis.password, Password::File(fixture("credentials").join("redis-password")));
    let pem = fixture("valid/../secrets/some.pem");
    assert_eq!(redis.tls.ca_file, Some(pem.clone()));
    assert_eq!(redis.tls.cert_file, Some(pem.clone()));
    assert_eq!(redis.tls.key_file, Some(pem));

    let eu = &config.connections["eu"];
    assert_eq!(eu.address, Address::Tcp { host: "::1".to_owned(), port: 7000 });
    assert_eq!(eu.address.to_string(), "redis://[::1]:7000");
    assert_eq!(eu.username.as_deref(), Some("handlerd"));
    assert_eq!(eu.password, Password::None, "the credential is for [redis] only");

    let local = &config.connections["local"];
    assert_eq!(local.address, Address::Unix("/run/redis/handlerd.sock".into()));
    assert_eq!(local.database, 3);
    assert_eq!(local.password, Password::File(fixture("valid/../secrets/password")));
    assert!(matches!(&config.connections["url"].password,
        Password::Url(secret) if secret.expose() == "hunter2"));
    assert_eq!(config.connections.len(), 3);
}

#[test]
fn a_folder_of_credentials_that_can_not_be_looked_into_is_said() {
    // No folder: like one that is somebody else's, but nor can root look into it.
    let folder = fixture("credentials/redis-password").into_os_string();
    let environment = [("CREDENTIALS_DIRECTORY", folder)].into_iter().collect();
    let text = "[channels.a]\nlog = true";
    let loaded = Config::parse(text, &fixture("valid/small.toml"), &environment);
    let loaded = loaded.expect("a configuration");
    assert_eq!(loaded.config.redis.password, Password::None);
    let [warning] = &*loaded.warnings else { panic!("{:?}", loaded.warnings) };
    let said = warning.render(false);
    for words in ["warning: whether there is a systemd credential `redis-password`", "goes without"]
    {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn the_embedded_broker_is_read() {
    let file = fixture("valid/embedded.toml");
    // The credential is for a Redis that asks for one.
    let credentials = [("CREDENTIALS_DIRECTORY", fixture("credentials").into_os_string())];
    let config = load("valid/embedded.toml", &credentials.into_iter().collect()).config;
    let listen = "[::1]:7000".parse().expect("an address");
    let embedded = Embedded { listen, config: file.clone() };
    assert_eq!(config.redis.address, Address::Embedded(embedded));
    assert_eq!(config.redis.password, Password::None);

    let text = "[redis]\nurl = \"embedded\"\n[channels.a]\nlog = true";
    let nothing: Environment = [("UNUSED", "")].into_iter().collect();
    let loaded = Config::parse(text, &file, &nothing).expect("a configuration");
    let listen = "127.0.0.1:6379".parse().expect("an address");
    let expected = Address::Embedded(Embedded { listen, config: file });
    assert_eq!(loaded.config.redis.address, expected);
}

#[test]
fn handlers_are_read() {
    let config = full();
    let plugins = fixture("valid/../plugins");
    assert_eq!(config.plugin_dir, plugins);
    let found: Vec<&str> = config.handlers.keys().map(|name| &**name).collect();
    assert_eq!(found, ["announce", "json-route", "mask", "other", "redact"]);
    for (name, file) in [("announce", "announce"), ("mask", "redact"), ("redact", "redact")] {
        assert_eq!(config.handlers[name].plugin, plugins.join(format!("{file}.wasm")));
    }
    assert_eq!(config.handlers["other"].plugin, fixture("valid/../plugins/announce.wasm"));

    let mask = &config.handlers["mask"];
    assert_eq!(mask.sha256.map(|sum| (sum[0], sum[31])), Some((0xcd, 0x7f)));
    assert_eq!(mask.instance, InstancePolicy::Fresh);
    let limits = HandlerLimits {
        memory: 128 << 20,
        timeout: Duration::from_secs(90),
        max_outputs: 5,
        max_output: 1_000_000,
        max_log: 0,
        instances: 3,
    };
    assert_eq!(mask.limits, limits);

    let bare = Handler::for_file(&plugins.join("announce.wasm"));
    assert_eq!(config.handlers["announce"], bare);
    assert_eq!(bare.limits, HandlerLimits::default());
    assert_eq!(bare.limits.memory, 64 << 20);
    assert_eq!(bare.limits.timeout, Duration::from_millis(100));
    assert_eq!(&*Handler::for_file(Path::new("x/loud.wasm")).name, "loud");
    assert!(Handler::for_file(Path::new("x/loud.wasm")).plugin.is_absolute());
}

#[test]
fn settings_are_texts_json_or_secrets() {
    let config = full();
    let settings: Vec<(&str, &str, bool)> = config.handlers["mask"]
        .config
        .iter()
        .map(|(key, setting)| {
            (key.as_str(), setting.expose(), matches!(setting, Setting::Secret(_)))
        })
        .collect();
    assert_eq!(
        settings,
        [
            ("words", "foo, bar", false),
            ("limit", "3", false),
            ("ratio", "0.5", false),
            ("on", "true", false),
            ("when", "\"2026-01-02T03:04:05Z\"", false),
            ("list", "[1,\"two\",[3]]", false),
            ("nested", "{\"b\":1,\"a\":{\"file\":\"x\",\"mode\":2}}", false),
            ("empty", "", false),
            ("key", "from-a-file", true),
            ("home", "handlerd", true),
            ("token", "from-systemd", true),
            ("api_key", "hunter2", true),
            ("greeting", "hello handlerd, ${you}", true),
            ("deep", "[\"handlerd\"]", true),
        ]
    );
}

#[test]
fn channels_are_read_in_the_order_of_the_file() {
    let config = full();
    let found: Vec<&str> = config.channels.iter().map(|channel| &*channel.name).collect();
    assert_eq!(found, ["chat", "rooms", "log-only", "orders", "events", "lines"]);

    let chat = channel(&config, "chat");
    assert_eq!(chat.source, Source::Subscribe(names(&["chat"])));
    assert_eq!(chat.handlers, names(&["mask", "announce", "mask"]));
    assert_eq!(chat.outputs, [Output::Publish(fixed("redis", "chat.out"))]);

    let rooms = channel(&config, "rooms");
    assert_eq!(rooms.source, Source::Pattern(names(&["room.*", "salon.[^a]?"])));
    assert_eq!(rooms.handlers, names(&["redact", "json-route"]));
    let outputs = [
        Output::Publish(parts("redis", &["out.", ""])),
        Output::Publish(parts("eu", &["", ".", ""])),
        Output::Publish(fixed("redis", "rooms")),
        Output::Append(fixed("redis", "rooms.log")),
        Output::Append(parts("eu", &["", ".log"])),
        Output::Push(fixed("local", "rooms")),
        Output::Log,
    ];
    assert_eq!(rooms.outputs, outputs);
    for (output, name) in rooms.outputs.iter().zip(["out.room.1", "room.1.room.1", "rooms"]) {
        let Output::Publish(target) = output else { panic!("{output:?}") };
        assert_eq!(target.name.fill("room.1"), name);
    }
    assert_eq!(rooms.routes.resolve("vip.1"), Some(RouteKind::Publish));
    assert_eq!(rooms.routes.resolve("kept.1"), Some(RouteKind::Append));
    assert_eq!(rooms.routes.resolve("audit"), Some(RouteKind::Push));
    assert_eq!(rooms.routes.resolve("log.x"), Some(RouteKind::Push));
    assert_eq!(rooms.routes.resolve("log.xx"), None);
    assert_eq!((rooms.workers, rooms.queue, rooms.max_payload), (4, 32 << 20, 20_000_000));
    assert_eq!(rooms.overflow, Overflow::DropNewest);
    assert_eq!(rooms.maxlen, Some(1000));
    assert_eq!(rooms.order_by, Some(OrderBy::Pointer("/room/~1id".to_owned())));

    let log_only = channel(&config, "log-only");
    assert_eq!(log_only.source, Source::Subscribe(names(&["a", "b"])));
    assert_eq!(log_only.outputs, [Output::Log]);
    assert!(log_only.single && !rooms.single);
    assert_eq!(log_only.queue, 4096);
    assert!(log_only.max_payload < 4096, "a message that fits `max_payload` fits the queue");
}

#[test]
fn streams_are_read() {
    let config = full();
    let orders = channel(&config, "orders");
    let expected = StreamSource {
        keys: names(&["orders", "{old}.orders"]),
        group: "billing".into(),
        start: Some(Start::After(EntryId { ms: 1_526_919_030_474, seq: 55 })),
        consumer: Some("handlerd".into()),
        batch: 10,
        claim_idle: Duration::from_secs(1),
        max_deliveries: 5,
        when_done: WhenDone::Delete,
        payload_field: "body".into(),
    };
    assert_eq!(orders.source, Source::Stream(expected));
    // Braces are a hash tag where a stream of the source is in the same slot.
    let outputs = [
        parts("redis", &["", ".done"]),
        parts("redis", &["{", "}.done"]),
        fixed("redis", "{old}.done"),
        fixed("redis", "{orders}.done"),
    ];
    assert_eq!(orders.outputs, outputs.map(Output::Append));
    assert_eq!(orders.order_by, Some(OrderBy::Header("customer".to_owned())));
    assert_eq!(orders.maxlen, None);

    let starts = ["events", "lines"].map(|name| match &channel(&config, name).source {
        Source::Stream(stream) => stream.start,
        source => panic!("{source:?}"),
    });
    let id = EntryId { ms: 1_526_919_030_474, seq: 0 };
    assert_eq!(starts, [Some(Start::Oldest), Some(Start::After(id))]);
}

#[test]
fn failure_policies_are_read() {
    let config = full();
    let policy = |name: &str| {
        let channel = channel(&config, name);
        (channel.retries, channel.retry_for, channel.dead_letter.as_deref())
    };
    let (half, ninety) = (Duration::from_secs(30), Duration::from_secs(90));
    assert_eq!(policy("chat"), (Retries::Times(0), Some(half), None));
    assert_eq!(policy("rooms"), (Retries::Times(2), Some(ninety), Some("rooms.dead")));
    assert_eq!(policy("log-only").2, None);
    assert_eq!(policy("orders"), (Retries::Forever, None, Some("orders.dead")));
    let ten_minutes = Duration::from_secs(600);
    assert_eq!(policy("events"), (Retries::Forever, Some(ten_minutes), None));
    assert_eq!(policy("lines"), (Retries::Times(0), Some(half * 10), Some("kept")));
    assert_eq!(channel(&config, "rooms").dead_letter_maxlen, Some(500));
    assert_eq!(channel(&config, "orders").dead_letter_maxlen, None);
}

#[test]
fn the_rest_is_read() {
    let config = full();
    assert_eq!(config.file, fixture("valid/full.toml"));
    assert_eq!(config.memory, 1 << 30);
    assert_eq!(config.drain_timeout, Duration::ZERO);
    assert_eq!(config.log.level, "warn,handlerd=debug");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.http.listen, "[::1]:9000".parse().ok());
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:#?}", full());
    for secret in ["hunter2", "from-a-file", "from-systemd", "hello handlerd"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert!(shown.contains("foo, bar"));
}

#[test]
fn everything_has_a_default() {
    let none = Environment::from_iter::<[(&str, &str); 0]>([]);
    let config = load("valid/small.toml", &none).config;
    assert_eq!(config.redis.address.to_string(), "redis://127.0.0.1:6379");
    assert_eq!(config.redis.database, 0);
    assert_eq!(config.redis.password, Password::None);
    assert_eq!(config.plugin_dir, fixture("valid/plugins"));
    assert!(config.handlers.is_empty());
    assert_eq!(config.memory, 256 << 20);
    assert_eq!(config.drain_timeout, Duration::from_secs(10));
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Auto));
    assert_eq!(config.http.listen, "127.0.0.1:9847".parse().ok());
    let chat = channel(&config, "chat");
    assert_eq!((chat.workers, chat.queue, chat.max_payload), (1, 16 << 20, 1 << 20));
    assert_eq!(chat.overflow, Overflow::DropOldest);
    assert!(chat.routes.is_empty() && chat.handlers.is_empty());
    assert_eq!((chat.retries, chat.dead_letter.as_deref()), (Retries::Times(0), None));
    assert_eq!((chat.maxlen, &chat.order_by, chat.dead_letter_maxlen), (None, &None, None));

    let orders = channel(&config, "orders");
    let expected = StreamSource {
        keys: names(&["orders"]),
        group: "billing".into(),
        start: None,
        consumer: None,
        batch: 128,
        claim_idle: Duration::from_secs(30),
        max_deliveries: 10,
        when_done: WhenDone::Ack,
        payload_field: "payload".into(),
    };
    assert_eq!(orders.source, Source::Stream(expected));
    assert_eq!(orders.outputs, [Output::Append(fixed("redis", "orders.done"))]);
    assert_eq!(orders.retries, Retries::Times(3));
    assert_eq!(orders.retry_for, Some(Duration::from_secs(300)));
    assert_eq!(orders.dead_letter.as_deref(), Some("orders.dead"));

    let empty = Config::parse("", Path::new("config.toml"), &none).expect("nothing is valid");
    assert!(empty.config.channels.is_empty() && empty.config.plugin_dir.is_absolute());
}

#[test]
fn defaults_follow_what_they_must_fit_into() {
    let none = Environment::from_iter::<[(&str, &str); 0]>([]);
    let text = "limits.memory = \"64KiB\"\nchannels.a.log = true\n";
    let config = Config::parse(text, Path::new("x.toml"), &none).expect("valid").config;
    assert_eq!(config.channels[0].queue, 64 << 10);
    assert!(config.channels[0].max_payload < 64 << 10);
}

#[test]
fn the_endpoints_can_be_turned_off() {
    let none = Environment::from_iter::<[(&str, &str); 0]>([]);
    let config = Config::parse("http.listen = false", Path::new("x.toml"), &none).expect("valid");
    assert_eq!(config.config.http.listen, None);
}

#[test]
fn a_credential_and_its_file_by_name_are_one_source() {
    let credentials = fixture("credentials");
    let environment: Environment =
        [("CREDENTIALS_DIRECTORY", credentials.clone())].into_iter().collect();
    let text = "redis.password_file = \"${CREDENTIALS_DIRECTORY}/redis-password\"\n";
    let config = Config::parse(text, Path::new("x.toml"), &environment).expect("valid").config;
    assert_eq!(config.redis.password, Password::File(credentials.join("redis-password")));
    let config = Config::parse("", Path::new("x.toml"), &environment).expect("valid").config;
    assert_eq!(config.redis.password, Password::File(credentials.join("redis-password")));
}
