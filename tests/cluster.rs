//! Streams in a Redis Cluster: each is read and finished at the node that has its slot.

mod support;

use support::endpoints::fetch;
use support::redis_server::free_port;
use support::{Handlerd, Redis, Run, wait_for, wait_until};

/// Three masters, and as many replicas of the first as were asked for. Tags `{a}`, `{b}` and `{c}`
/// are on nodes 2, 0 and 1.
struct Cluster {
    nodes: Vec<Redis>,
}

/// The slots 0 to 16383 in three parts.
const PARTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl Cluster {
    fn start(replicas: usize) -> Cluster {
        // A node that stands still for a few seconds, as on a busy machine, isn't given up.
        let node = |_| {
            Redis::with(
                "cluster-enabled yes\ncluster-node-timeout 10000\nappendonly yes\nappendfsync always\n\
                 cluster-require-full-coverage no",
            )
        };
        let cluster = Cluster { nodes: (0..PARTS.len() + replicas).map(node).collect() };
        for (node, (first, last)) in cluster.nodes.iter().zip(PARTS) {
            // Redis 6.2 doesn't know ADDSLOTSRANGE.
            let mut slots = redis::cmd("CLUSTER");
            slots.arg("ADDSLOTS").arg((first..=last).collect::<Vec<u16>>());
            slots.query::<()>(node.client().raw()).expect("CLUSTER ADDSLOTS");
        }
        for node in &cluster.nodes[1..] {
            let port = node.port().to_string();
            cluster.nodes[0].run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port]);
        }
        for node in &cluster.nodes {
            wait_until("the nodes know each other", || {
                let known: String = node.run(&["CLUSTER", "NODES"]);
                known.lines().count() == cluster.nodes.len() && !known.contains("handshake")
            });
        }
        let first: String = cluster.nodes[0].run(&["CLUSTER", "MYID"]);
        for replica in &cluster.nodes[PARTS.len()..] {
            replica.run::<()>(&["CLUSTER", "REPLICATE", &first]);
            wait_until("the replica is in step", || {
                replica.run::<String>(&["INFO", "replication"]).contains("master_link_status:up")
            });
        }
        for node in &cluster.nodes {
            wait_until("the cluster is whole", || {
                let info: String = node.run(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            });
        }
        cluster
    }
}

fn add(node: &Redis, key: &str, numbers: std::ops::Range<u32>) {
    let mut pipe = redis::pipe();
    for n in numbers {
        pipe.cmd("XADD").arg(key).arg("*").arg("payload").arg(n.to_string()).ignore();
    }
    pipe.query::<()>(node.client().raw()).expect("pipelined XADD");
}

fn payloads(node: &Redis, key: &str) -> Vec<String> {
    let range: Vec<(String, Vec<String>)> = node.run(&["XRANGE", key, "-", "+"]);
    range.into_iter().map(|(_, mut fields)| fields.pop().expect("a payload")).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

const CHANNEL: &str = "[channels.work]\nstream = [\"in{a}\", \"in{b}\", \"in{c}\"]\ngroup = \"g\"\n\
                       start = \"oldest\"\nhandlers = []\nappend = \"{channel}.done\"\n\
                       publish = \"said\"\ndead_letter = false\n";

fn config(node: &Redis, channels: &str) -> String {
    format!("[redis]\nurl = \"{}\"\n{channels}", node.url())
}

#[test]
fn streams_of_all_nodes_are_read_and_finished_where_they_are() {
    let cluster = Cluster::start(0);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let said = support::Watcher::subscribe(third, &["said"]);
    for (node, key) in [(third, "in{a}"), (first, "in{b}"), (second, "in{c}")] {
        add(node, key, 0..300);
    }
    let dir = Handlerd::folder();
    let mut daemon = Handlerd::start_in(dir, &config(second, CHANNEL), &[]);
    for (node, key) in [(third, "in{a}"), (first, "in{b}"), (second, "in{c}")] {
        let done = format!("{key}.done");
        wait_until(key, || node.run::<u64>(&["XLEN", &done]) >= 300);
        assert_eq!(payloads(node, &done), numbers(0..300));
        if node.port() != second.port() {
            daemon
                .wait_log(&[&format!("stream {key}: the node redis://127.0.0.1:{}", node.port())]);
        }
    }
    // Published from whichever node, heard on every one.
    said.wait_count(900);
    // Each goes on after its connections are cut.
    for node in [first, third] {
        node.run::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    add(third, "in{a}", 300..400);
    add(first, "in{b}", 300..400);
    wait_until("after the cut", || {
        third.run::<u64>(&["XLEN", "in{a}.done"]) + first.run::<u64>(&["XLEN", "in{b}.done"]) >= 800
    });
    assert_eq!(payloads(third, "in{a}.done"), numbers(0..400));
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
    assert_eq!(stopped.number("handled"), 1100, "{}", stopped.last);
}

#[test]
fn the_verbs_find_dead_letters_and_the_past_where_they_are() {
    let cluster = Cluster::start(0);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let channel = |table: &str, tag: &str| {
        format!(
            "[channels.{table}]\nstream = \"in{{{tag}}}\"\ngroup = \"g\"\nstart = \"oldest\"\n\
             handlers = [\"misbehave\"]\nlog = true\ndead_letter = \"in{{{tag}}}.dead\"\n"
        )
    };
    let channels = channel("one", "a") + &channel("two", "b");
    for (node, key) in [(third, "in{a}"), (first, "in{b}")] {
        node.run::<String>(&["XADD", key, "*", "payload", "reject no"]);
    }
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config(second, &channels), &[]);
    for (node, key) in [(third, "in{a}.dead"), (first, "in{b}.dead")] {
        wait_until("a dead letter", || node.run::<u64>(&["XLEN", key]) == 1);
    }
    daemon.stop();
    let file = daemon.dir().join("config.toml").display().to_string();
    let run = |verb: &[&str]| Run::new(&[verb, &["--config", &file]].concat()).output();
    let list = run(&["dead", "list"]).expect(0).text();
    assert!(list.contains("in{a}") && list.contains("in{b}"), "{list}");
    let past = run(&["replay", "one"]).expect(1).text();
    assert!(past.ends_with("1 entry: 1 failed\n"), "{past}");
    run(&["dead", "replay", "--all"]).expect(0);
    assert_eq!(
        third.run::<(u64, u64)>(&[
            "EVAL",
            "return { redis.call('XLEN', KEYS[1]), redis.call('XLEN', KEYS[2]) }",
            "2",
            "in{a}",
            "in{a}.dead"
        ]),
        (2, 0)
    );
    assert_eq!(first.run::<u64>(&["XLEN", "in{b}"]), 2);
}

/// Move the slot of `{b}` with these keys from the first node to the second, as redis-cli does it;
/// `halfway` is called when the first of them is there.
fn move_slot(cluster: &Cluster, keys: &[&str], halfway: impl FnOnce()) {
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let slot = from.run::<u64>(&["CLUSTER", "KEYSLOT", "in{b}"]).to_string();
    let id = |node: &Redis| node.run::<String>(&["CLUSTER", "MYID"]);
    to.run::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
    from.run::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    let port = to.port().to_string();
    let migrate = |key| from.run::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "10000"]);
    migrate(keys[0]);
    halfway();
    keys[1..].iter().for_each(|key| migrate(key));
    for node in [to, from, &cluster.nodes[2]] {
        node.run::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
    }
}

#[test]
fn a_slot_that_moves_is_followed_and_nothing_is_lost_or_doubled() {
    let cluster = Cluster::start(0);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config(third, CHANNEL), &[]);
    add(first, "in{b}", 0..2000);
    wait_until("it flows", || first.run::<u64>(&["XLEN", "in{b}.done"]) >= 100);
    move_slot(&cluster, &["in{b}.done", "in{b}", "handlerd:{b}:in{b}:g:cursor"], || {
        add(first, "in{b}", 2000..2100);
        daemon.wait_log(&["stream in{b}: can't finish", "is being moved to another node"]);
    });
    add(second, "in{b}", 2100..3000);
    wait_until("all", || second.run::<u64>(&["XLEN", "in{b}.done"]) >= 3000);
    assert_eq!(payloads(second, "in{b}.done"), numbers(0..3000));
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("lost")), (0, 0), "{}", stopped.last);
}

#[test]
fn a_replica_that_takes_over_is_found() {
    let mut cluster = Cluster::start(1);
    let mut daemon =
        Handlerd::start_in(Handlerd::folder(), &config(&cluster.nodes[1], CHANNEL), &[]);
    add(&cluster.nodes[0], "in{b}", 0..500);
    let done = |node: &Redis| node.run::<u64>(&["XLEN", "in{b}.done"]);
    wait_until("before", || done(&cluster.nodes[0]) >= 500);
    assert_eq!(cluster.nodes[0].run::<u64>(&["WAIT", "1", "10000"]), 1);
    cluster.nodes[0].kill();
    let replica = &cluster.nodes[3];
    wait_until("the replica takes over", || {
        replica.run::<String>(&["INFO", "replication"]).contains("role:master")
    });
    wait_for("a node that takes writes", || {
        let mut client = replica.client();
        let add: redis::RedisResult<String> =
            redis::cmd("XADD").arg("in{b}").arg(&["*", "payload", "500"]).query(client.raw());
        add.ok()
    });
    add(replica, "in{b}", 501..1000);
    wait_until("after", || done(replica) >= 1000);
    assert_eq!(payloads(replica, "in{b}.done"), numbers(0..1000));
    let stopped = daemon.stop();
    assert_eq!(stopped.number("lost"), 0, "{}", stopped.last);
}

#[test]
fn check_says_which_node_has_what_and_what_no_node_can_do() {
    let cluster = Cluster::start(0);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    third.run::<()>(&["SET", "in{a}", "not a stream"]);
    let dir = Handlerd::folder();
    let file = dir.path().join("config.toml");
    let check = |channels: &str| {
        std::fs::write(&file, config(second, channels)).expect("a file is written");
        let run = ["check", "--connect", "--config", file.to_str().expect("a name")];
        Run::new(&run).output()
    };
    let text = check(CHANNEL).expect(69).text();
    for words in [
        format!(
            "note: the node 127.0.0.1:{} of this Redis Cluster has \"in{{b}}\" (slot 3300)",
            first.port()
        ),
        format!(
            "note: the node 127.0.0.1:{} of this Redis Cluster has \"in{{a}}\" (slot 15495)",
            third.port()
        ),
        "problem: channel work reads the stream \"in{a}\", but that is a string".to_owned(),
        "note: channel work: there is no stream \"in{b}\" yet".to_owned(),
        "note: channel work: there is no stream \"in{c}\" yet".to_owned(),
    ] {
        assert!(text.contains(&words), "{words}\n{text}");
    }
    assert_eq!(text.matches("problem: ").count(), 1, "{text}");
    third.run::<()>(&["DEL", "in{a}"]);
    check(CHANNEL).expect(0);

    // A channel whose source is pub/sub writes to one node.
    let text = check("[channels.chat]\nhandlers = []\npush = \"a\"\n").expect(69).text();
    let there =
        format!("slot 15495, which the node 127.0.0.1:{} of this Redis Cluster has", third.port());
    assert!(text.contains("channel chat needs RPUSH \"a\"") && text.contains(&there), "{text}");
    // What is to be one step lies in two slots.
    let two = "[channels.work]\nstream = \"in{a}\"\ngroup = \"g\"\nhandlers = []\nappend = \"b\"\n\
               dead_letter = false\n";
    let text = check(two).expect(69).text();
    assert!(text.contains("they are not in one slot of this Redis Cluster"), "{text}");
}

/// Its nodes have no common order of what is published, by which daemons could go on behind each other.
#[test]
fn a_channel_that_is_single_is_refused_and_the_others_work() {
    const CHANNELS: &str = "[channels.orders]\nsubscribe = \"in\"\nhandlers = []\npublish = \"no\"\n\
                            push = \"list\"\nsingle = true\n\
                            [channels.chat]\nsubscribe = \"in\"\nhandlers = []\npublish = \"said\"\n";
    const WHY: &str = "this is a Redis Cluster, and `single = true` is for one Redis";
    let cluster = Cluster::start(0);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let said = support::Watcher::subscribe(third, &["said", "no"]);
    let port = free_port();
    let http = format!("{CHANNELS}[http]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut daemon = Handlerd::start_in(Handlerd::folder(), &config(second, &http), &[]);
    daemon.wait_log(&["WARN", "handlerd:single:orders", WHY]);
    second.wait_subscribed("in", 1);
    for n in 0..100 {
        first.run::<u64>(&["PUBLISH", "in", &n.to_string()]);
    }
    said.wait_count(100);
    let ready = fetch(port, "/readyz");
    assert_eq!(ready.code, 503, "{}", ready.body);
    assert!(ready.body.contains("orders") && ready.body.contains(WHY), "{}", ready.body);
    assert!(!ready.body.contains("chat"), "{}", ready.body);
    let status = fetch(port, "/status").body;
    assert!(status.contains("orders") && status.contains(WHY), "{status}");
    assert_eq!(fetch(port, "/healthz").code, 200);
    let file = daemon.dir().join("config.toml").display().to_string();
    let text = Run::new(&["check", "--connect", "--config", &file]).output().expect(69).text();
    assert!(text.contains(&format!("problem: channel orders can't work here: {WHY}")), "{text}");
    assert_eq!(text.matches("problem: ").count(), 1, "{text}");
    let stopped = daemon.stop();
    assert_eq!((stopped.code, stopped.number("handled")), (0, 100), "{}", stopped.last);
}
