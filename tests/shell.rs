//! Publishing and listening by hand, in a real Redis.

mod support;

use std::ops::ControlFlow;
use std::sync::mpsc;

use handlerd::broker::connection::Connector;
use handlerd::broker::shell::{Heard, ShellError, listen, send};
use handlerd::config::{Address, Connection, Password, Secret, TlsFiles};
use support::{PATIENCE, Redis};
use tokio::time::timeout;

fn connector(redis: &Redis, user: Option<&str>) -> Connector {
    Connector::new(&Connection {
        name: "redis".into(),
        address: Address::Tcp { host: "127.0.0.1".into(), port: redis.port() },
        database: 0,
        username: user.map(Into::into),
        password: user.map_or(Password::None, |_| Password::Url(Secret::new("any"))),
        tls: TlsFiles::default(),
    })
}

fn owned(heard: &Heard<'_>) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match heard {
        Heard::Listening => "listening".to_owned(),
        Heard::Message { pattern, channel, payload } => {
            let pattern = pattern.map(|p| text(p) + " ").unwrap_or_default();
            format!("{pattern}{}: {}", text(channel), text(payload))
        }
        Heard::Lost { .. } => "lost".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_is_heard_also_after_redis_was_away() {
    let mut redis = Redis::start();
    let (tell, hear) = mpsc::channel();
    let listener = connector(&redis, None);
    let listening = tokio::spawn(async move {
        let names = (["chat".to_owned()], ["room.*".to_owned()]);
        listen(&listener, &names.0, &names.1, |heard| match tell.send(owned(&heard)) {
            Ok(()) if !matches!(heard, Heard::Message { payload: b"end", .. }) => {
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })
        .await
    });
    let next = || hear.recv_timeout(PATIENCE).expect("something is heard");

    assert_eq!(next(), "listening");
    let sender = connector(&redis, None);
    assert_eq!(send(&sender, "chat", b"\x00\xff\r\n").await.unwrap(), 1);
    assert_eq!(next(), r"chat: \x00\xff\r\n");
    assert_eq!(send(&sender, "room.1", b"").await.unwrap(), 1);
    assert_eq!(next(), "room.* room.1: ");
    assert_eq!(send(&sender, "nobody", b"").await.unwrap(), 0);

    redis.kill();
    assert_eq!(next(), "lost");
    assert!(matches!(send(&sender, "chat", b"").await, Err(ShellError::Connect(_))));
    redis.restart();
    assert_eq!(next(), "listening");
    assert_eq!(send(&sender, "chat", b"end").await.unwrap(), 1);
    assert_eq!(next(), "chat: end");
    timeout(PATIENCE, listening).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_redis_is_noticed() {
    let redis = Redis::start();
    let (tell, hear) = mpsc::channel();
    let listener = connector(&redis, None);
    let listening = tokio::spawn(async move {
        listen(&listener, &["chat".to_owned()], &[], |heard| {
            let _ = tell.send(owned(&heard));
            ControlFlow::Continue(())
        })
        .await
    });
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "listening");
    redis.freeze();
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "lost");
    redis.thaw();
    assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), "listening");
    listening.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_named() {
    let redis = Redis::with("user narrow on nopass +@all ~* resetchannels &chat");
    let narrow = connector(&redis, Some("narrow"));
    let error = send(&narrow, "secret", b"x").await.unwrap_err().to_string();
    assert!(error.starts_with("PUBLISH \"secret\" was refused: NOPERM"), "{error}");
    let names = ["chat".to_owned(), "secret".to_owned()];
    let listening = listen(&narrow, &names, &[], |_| ControlFlow::Continue(()));
    let error = timeout(PATIENCE, listening).await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("SUBSCRIBE \"secret\" was refused: NOPERM"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_without_resp3() {
    let redis = Redis::with("rename-command HELLO \"\"");
    let (tell, hear) = mpsc::channel();
    let listener = connector(&redis, None);
    let listening = tokio::spawn(async move {
        listen(&listener, &["chat".to_owned()], &["r*".to_owned()], |heard| {
            let _ = tell.send(owned(&heard));
            ControlFlow::Continue(())
        })
        .await
    });
    let next = || hear.recv_timeout(PATIENCE).expect("something is heard");
    assert_eq!(next(), "listening");
    // Longer than it waits before it asks for a sign of life, and gets one.
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    let sender = connector(&redis, None);
    assert_eq!(send(&sender, "chat", b"1").await.unwrap(), 1);
    assert_eq!(send(&sender, "room", b"2").await.unwrap(), 1);
    assert_eq!([next(), next()], ["chat: 1", "r* room: 2"]);
    listening.abort();
}
