//! The chain, with handlers that are functions.

use super::*;
use crate::config::pattern::Pattern;

/// A handler of native code: chains know nothing of plugins.
struct Native {
    name: Arc<str>,
    body: Body,
}

type Body = fn(Message) -> Result<Vec<Message>, FailureKind>;

impl Handler for Native {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn handle<'a>(&'a self, messages: &'a mut [Transit]) -> HandlerFuture<'a> {
        let failed = |kind| Failure { handler: self.name.clone(), kind, reason: "so".into() };
        Box::pin(async move {
            // Two at once, so that convoys come apart.
            let handled = messages.len().min(2);
            for transit in &mut messages[..handled] {
                let message = transit.single().expect("nothing else is handed over").clone();
                transit.outcome = (self.body)(message).map_err(failed);
            }
            handled
        })
    }
}

fn chain(bodies: &[Body], limits: RunLimits, routes: Routes) -> Chain {
    let handler = |(i, body): (usize, &Body)| {
        Arc::new(Native { name: i.to_string().into(), body: *body }) as Arc<dyn Handler>
    };
    Chain::new(bodies.iter().enumerate().map(handler).collect(), limits, routes)
}

fn delivery() -> Arc<Delivery> {
    Arc::new(Delivery {
        table: "t".into(),
        redis_channel: "c".into(),
        pattern: None,
        id: None,
        attempt: 1,
        received_at: 0,
    })
}

fn show(outputs: Vec<Message>) -> Vec<String> {
    let show = |m: Message| {
        let text = String::from_utf8(m.payload).unwrap();
        m.route.map_or(text.clone(), |route| format!("{text}>{route}"))
    };
    outputs.into_iter().map(show).collect()
}

/// What comes out for each of these messages, in the order of coming out.
async fn pass(chain: &Chain, messages: &[&str]) -> Vec<Result<Vec<String>, Failure>> {
    let mut convoy = Convoy::default();
    convoy.extend(messages.iter().map(|m| Transit::new(delivery(), Message::new(*m))));
    let mut outcomes = Vec::new();
    while let Some(arrived) = chain.advance(&mut convoy).await {
        assert!(!arrived.is_empty(), "it would never end");
        outcomes.extend(arrived.iter().map(|transit| transit.outcome.clone().map(show)));
    }
    assert_eq!(outcomes.len(), messages.len());
    outcomes
}

async fn run(bodies: &[Body], limits: RunLimits, routes: Routes) -> Result<Vec<String>, Failure> {
    let chain = chain(bodies, limits, routes);
    let alone = chain.run_observed(&delivery(), Message::new("m"), |_, _| {}).await.map(show);
    assert_eq!(pass(&chain, &["m"]).await, std::slice::from_ref(&alone));
    alone
}

const AMPLE: RunLimits = RunLimits { max_outputs: 100, max_output: 1000 };

fn twice(m: Message) -> Result<Vec<Message>, FailureKind> {
    Ok(vec![
        Message::new([&m.payload[..], b"1"].concat()),
        Message::new([&m.payload[..], b"2"].concat()),
    ])
}

fn first_to_vip(mut m: Message) -> Result<Vec<Message>, FailureKind> {
    m.route = m.payload.ends_with(b"1").then(|| "vip".to_owned());
    Ok(vec![m])
}

fn shout(mut m: Message) -> Result<Vec<Message>, FailureKind> {
    m.payload.make_ascii_uppercase();
    Ok(vec![m])
}

fn reject_second(m: Message) -> Result<Vec<Message>, FailureKind> {
    if m.payload.ends_with(b"2") { Err(FailureKind::Reject) } else { Ok(vec![m]) }
}

fn none(_: Message) -> Result<Vec<Message>, FailureKind> {
    Ok(vec![])
}

fn vip() -> Routes {
    Routes { publish: vec![Pattern::new("v*").unwrap()], ..Routes::default() }
}

#[tokio::test]
async fn branches_come_out_in_order() {
    let outputs = run(&[twice, twice, shout], AMPLE, Routes::default()).await.unwrap();
    assert_eq!(outputs, ["M11", "M12", "M21", "M22"]);
}

#[tokio::test]
async fn an_empty_chain_passes_and_a_filter_ends() {
    assert_eq!(run(&[], AMPLE, Routes::default()).await.unwrap(), ["m"]);
    let after: Body = |_| panic!("nothing goes on behind a filter");
    assert!(run(&[none, after], AMPLE, Routes::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_route_leaves_the_chain_where_it_was_set() {
    let outputs = run(&[twice, first_to_vip, shout], AMPLE, vip()).await.unwrap();
    assert_eq!(outputs, ["m1>vip", "M2"]);
}

#[tokio::test]
async fn a_route_that_nothing_permits_fails_the_handler_that_set_it() {
    let failure = run(&[twice, first_to_vip], AMPLE, Routes::default()).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.handler), (FailureKind::Route, "1"));
    assert!(failure.reason.contains("\"vip\""), "{failure}");
}

#[tokio::test]
async fn one_branch_that_fails_is_the_whole_runs_failure() {
    let failure = run(&[twice, reject_second], AMPLE, vip()).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.handler), (FailureKind::Reject, "1"));
}

#[tokio::test]
async fn fan_outs_do_not_multiply_without_bound() {
    let few = RunLimits { max_outputs: 7, max_output: 1000 };
    let failure = run(&[twice, twice, twice], few, vip()).await.unwrap_err();
    assert_eq!((failure.kind, &*failure.handler), (FailureKind::Output, "2"));
    let small = RunLimits { max_outputs: 100, max_output: 11 };
    let failure = run(&[twice, twice, twice], small, vip()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Output);
}

fn reject_c(m: Message) -> Result<Vec<Message>, FailureKind> {
    if m.payload.starts_with(b"c") { Err(FailureKind::Reject) } else { Ok(vec![m]) }
}

fn twice_b_and_no_d(m: Message) -> Result<Vec<Message>, FailureKind> {
    match m.payload.as_slice() {
        b"b" => twice(m),
        b"d" => none(m),
        _ => Ok(vec![m]),
    }
}

#[tokio::test]
async fn a_convoy_comes_out_in_order_whatever_becomes_of_its_messages() {
    let chain = chain(&[reject_c, twice_b_and_no_d, shout], AMPLE, Routes::default());
    let outcomes = pass(&chain, &["a", "b", "c", "d", "e", "f", "g"]).await;
    let shown: Vec<String> = outcomes
        .into_iter()
        .map(|outcome| outcome.map_or_else(|f| f.kind.as_str().into(), |m| m.join("+")))
        .collect();
    assert_eq!(shown, ["A", "B1+B2", "reject", "", "E", "F", "G"]);
}

#[tokio::test]
async fn who_looks_on_sees_each_hop_and_changes_nothing() {
    let chain = chain(&[reject_c, twice_b_and_no_d, shout], AMPLE, Routes::default());
    let mut convoy = Convoy::default();
    let all = ["a", "b", "c", "d", "e"];
    convoy.extend(all.iter().map(|m| Transit::new(delivery(), Message::new(*m))));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    for (place, input) in all.into_iter().enumerate().skip(1) {
        let seen = seen.clone();
        convoy.observe(
            place,
            Box::new(move |handler, _, outcome| {
                let shown = outcome.clone().map_or_else(|f| f.reason, |m| show(m).join("+"));
                seen.lock().unwrap().push(format!("{input} {handler}: {shown}"));
            }),
        );
    }
    let mut came_out = Vec::new();
    while let Some(arrived) = chain.advance(&mut convoy).await {
        came_out.extend(arrived.iter().map(|transit| transit.outcome.is_ok()));
    }
    assert_eq!(came_out, [true, true, false, true, true]);
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort();
    let hops = ["b 0: b", "b 1: b1+b2", "b 2: B1+B2", "c 0: so", "d 0: d", "d 1: "];
    assert_eq!(seen[..6], hops);
    assert_eq!(seen[6..], ["e 0: e", "e 1: e", "e 2: E"]);
    // One that is taken out before it is begun is not looked on at any more.
    convoy.clear();
    convoy.extend(all.iter().map(|m| Transit::new(delivery(), Message::new(*m))));
    convoy.observe(4, Box::new(|_, _, _| panic!("it isn't there")));
    assert_eq!(convoy.split_off(4).len(), 1);
    while chain.advance(&mut convoy).await.is_some() {}
}

#[tokio::test]
async fn what_is_furthest_goes_on_first() {
    let chain = chain(&[shout, shout], AMPLE, Routes::default());
    let mut convoy = Convoy::default();
    convoy.extend(["a", "b", "c"].into_iter().map(|m| Transit::new(delivery(), Message::new(m))));
    // The handlers take two at once: both come out before the third one is begun.
    let arrived = chain.advance(&mut convoy).await.expect("two are through");
    assert_eq!(arrived.len(), 2);
    assert_eq!(chain.advance(&mut convoy).await.expect("the third").len(), 1);
    assert!(chain.advance(&mut convoy).await.is_none());
}
