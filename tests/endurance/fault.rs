//! What can happen to daemons, to Redis, and to the way between them.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::message;
use crate::random::Random;
use crate::scene::{CLAIM_IDLE, DAEMONS, DEAD, GROUP, IN, LIST, OUT, Scene};
use crate::support::wait_until;
use handlerd::failpoint::Step;

macro_rules! faults {
    ($($fault:ident = $name:literal,)+) => {
        /// One thing that happens and passes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $name] $fault,)+
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$fault,)+];

            /// As the table calls it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Fault::$fault => $name,)+
                }
            }
        }
    };
}

faults! {
    DaemonKilled = "daemon killed",
    DaemonLost = "daemon lost, another one comes",
    AllKilled = "all daemons killed",
    DaemonStopped = "daemon stopped by SIGTERM",
    DaemonFrozen = "daemon frozen past claim_idle",
    TwoFrozen = "two daemons frozen past claim_idle",
    Plugin = "plugin traps, loops, rejects",
    RedisKilled = "Redis killed",
    RedisFrozen = "Redis frozen",
    AllAndRedisKilled = "all daemons and Redis killed",
    KilledWhileFrozen = "daemon killed while Redis is frozen",
    StoppedWhileFrozen = "daemon stopped while Redis is frozen",
    ConnectionsCut = "connections cut",
    ConnectionsHalfOpen = "connections half-open",
    NetworkSlow = "network slow",
    ClientsKilled = "CLIENT KILL",
    ClientsPaused = "CLIENT PAUSE",
    ScriptsFlushed = "SCRIPT FLUSH",
    OutOfMemory = "maxmemory reached",
    ReadOnly = "Redis a replica",
    StreamWrongType = "output stream of the wrong type",
    ListWrongType = "output list of the wrong type",
    DeadWrongType = "dead letters' key of the wrong type",
    IdsExhausted = "output stream's ids used up",
    NoSourceKey = "no right to the source",
    NoStreamKey = "no right to the output stream",
    NoListKey = "no right to the output list",
    NoDeadKey = "no right to the dead letters",
    NoCursorKey = "no right to the cursor",
    NoChannel = "no right to the channel",
    NoCommand = "no right to each command",
    PasswordRotated = "password rotated",
    GroupDestroyed = "group destroyed",
    StreamTrimmed = "stream trimmed",
    KilledAtStep = "daemon killed at some step",
    PluginKills = "plugin kills the daemon",
}

/// All keys that daemons use: what is left of them when one is forbidden.
const KEYS: [&str; 5] = [IN, OUT, LIST, DEAD, "handlerd:*"];

/// Where the group would be made again.
const CURSOR: &str = "handlerd:{in}:workers:cursor";

/// Commands without which nothing goes on, or something doesn't.
const COMMANDS: [&str; 9] =
    ["xadd", "rpush", "publish", "xack", "xreadgroup", "xpending", "xclaim", "evalsha", "xinfo"];

impl Fault {
    /// Whether a daemon is asked to end, or waited for until it does: a frozen one would not.
    pub fn stops_a_daemon(self) -> bool {
        matches!(
            self,
            Fault::DaemonStopped
                | Fault::StoppedWhileFrozen
                | Fault::KilledAtStep
                | Fault::PluginKills
        )
    }

    /// All that this build knows: optimised ones have no failpoints.
    pub fn known() -> Vec<Fault> {
        let needs_failpoints = |fault| matches!(fault, Fault::KilledAtStep | Fault::PluginKills);
        let known = |fault: &Fault| cfg!(debug_assertions) || !needs_failpoints(*fault);
        Fault::ALL.iter().copied().filter(known).collect()
    }

    /// Those of Redis and the way to it that an output stream of a pub/sub channel knows.
    pub const OF_REDIS: &[Fault] = &[
        Fault::RedisKilled,
        Fault::RedisFrozen,
        Fault::ConnectionsCut,
        Fault::ConnectionsHalfOpen,
        Fault::NetworkSlow,
        Fault::ClientsKilled,
        Fault::ClientsPaused,
        Fault::OutOfMemory,
        Fault::ReadOnly,
        Fault::StreamWrongType,
        Fault::IdsExhausted,
        Fault::NoStreamKey,
        Fault::NoChannel,
        Fault::PasswordRotated,
    ];

    /// Let it happen, and pass. Answers since when Redis accepts all that daemons write.
    pub fn happen(self, scene: &mut Scene, random: &mut Random) -> Instant {
        let place = random.below(DAEMONS as u64) as usize;
        let (short, long) = (random.time(20, 600), random.time(300, 1500));
        match self {
            Fault::DaemonKilled => {
                scene.kill_daemon(place);
                scene.start_daemon(place);
            }
            Fault::DaemonLost => {
                scene.kill_daemon(place);
                lasts(long);
                scene.forget_identity(place);
                scene.start_daemon(place);
            }
            Fault::AllKilled => {
                (0..DAEMONS).for_each(|place| scene.kill_daemon(place));
                lasts(short);
                (0..DAEMONS).for_each(|place| scene.start_daemon(place));
            }
            Fault::DaemonStopped => {
                drop(scene.stop_daemon(place));
                lasts(short);
                scene.start_daemon(place);
            }
            Fault::DaemonFrozen => frozen(scene, &[place], CLAIM_IDLE + long),
            Fault::TwoFrozen => {
                frozen(scene, &[place, (place + 1) % DAEMONS], CLAIM_IDLE + long);
            }
            Fault::Plugin => {
                scene.feeder.misbehave(["trap", "loop", "reject", "panic"]);
                lasts(short);
            }
            Fault::RedisKilled => {
                scene.redis.kill();
                lasts(long);
                return scene.redis.restart();
            }
            Fault::RedisFrozen => {
                scene.redis.freeze();
                lasts(long * 2);
                return scene.redis.thaw();
            }
            Fault::AllAndRedisKilled => {
                (0..DAEMONS).for_each(|place| scene.kill_daemon(place));
                scene.redis.kill();
                (0..DAEMONS).for_each(|place| scene.start_daemon(place));
                lasts(short);
                return scene.redis.restart();
            }
            // What it has sent is carried out after its end.
            Fault::KilledWhileFrozen => {
                scene.redis.freeze();
                lasts(short);
                scene.kill_daemon(place);
                scene.start_daemon(place);
                lasts(short);
                return scene.redis.thaw();
            }
            Fault::StoppedWhileFrozen => {
                scene.redis.freeze();
                drop(scene.stop_daemon(place));
                let back = scene.redis.thaw();
                scene.start_daemon(place);
                return back;
            }
            Fault::ConnectionsCut => {
                scene.proxy.refuse(true);
                scene.proxy.cut();
                lasts(short);
                return scene.proxy.refuse(false);
            }
            Fault::ConnectionsHalfOpen => {
                scene.proxy.silence_new(true);
                scene.proxy.half_open();
                lasts(long * 2);
                scene.proxy.half_open();
                return scene.proxy.silence_new(false);
            }
            Fault::NetworkSlow => {
                scene.proxy.rate(20_000);
                lasts(long);
                scene.proxy.rate(0);
            }
            Fault::ClientsKilled => {
                scene.redis.run::<u64>(&["CLIENT", "KILL", "USER", "handlerd"]);
            }
            Fault::ClientsPaused => {
                let time = long.as_millis().to_string();
                let which = if place == 0 { "WRITE" } else { "ALL" };
                scene.redis.run::<()>(&["CLIENT", "PAUSE", &time, which]);
                lasts(long);
            }
            Fault::ScriptsFlushed => scene.redis.run(&["SCRIPT", "FLUSH"]),
            Fault::OutOfMemory => {
                scene.redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
                lasts(long);
                scene.redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::ReadOnly => {
                // Of a master that isn't there: it keeps what it has.
                scene.redis.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
                lasts(long);
                scene.redis.run::<()>(&["REPLICAOF", "NO", "ONE"]);
            }
            Fault::StreamWrongType => wrong_type(scene, OUT, long),
            Fault::ListWrongType => wrong_type(scene, LIST, long),
            Fault::DeadWrongType => {
                scene.feeder.misbehave(["reject", "trap"]);
                wrong_type(scene, DEAD, long);
            }
            Fault::IdsExhausted => {
                let last = "return redis.call('XADD', KEYS[1], '18446744073709551615-\
                            18446744073709551615', 'no', 'message')";
                scene.set_aside(OUT, last);
                lasts(long);
                scene.redis.run::<()>(&["DEL", OUT]);
            }
            Fault::NoSourceKey => no_key(scene, IN, long),
            Fault::NoStreamKey => no_key(scene, OUT, long),
            Fault::NoListKey => no_key(scene, LIST, long),
            Fault::NoDeadKey => {
                scene.feeder.misbehave(["reject", "trap"]);
                no_key(scene, DEAD, long);
            }
            Fault::NoCursorKey => no_key(scene, KEYS[4], long),
            Fault::NoChannel => without(scene, &["resetchannels", "&other"], long),
            Fault::NoCommand => {
                for command in random.shuffled(&COMMANDS) {
                    let since = Instant::now();
                    without(scene, &[&format!("-{command}")], short);
                    scene.wait_flow(since);
                }
            }
            Fault::PasswordRotated => return password_rotated(scene, short),
            Fault::GroupDestroyed => group_destroyed(scene),
            Fault::StreamTrimmed => stream_trimmed(scene, long),
            Fault::KilledAtStep => killed_at_step(scene, place, random),
            Fault::PluginKills => plugin_kills(scene),
        }
        Instant::now()
    }
}

/// The fault's own time, which is not a wait for anything.
fn lasts(time: Duration) {
    std::thread::sleep(time);
}

fn frozen(scene: &mut Scene, places: &[usize], time: Duration) {
    places.iter().for_each(|&place| scene.daemon(place).signal(Signal::STOP));
    lasts(time);
    places.iter().for_each(|&place| scene.daemon(place).signal(Signal::CONT));
}

fn wrong_type(scene: &mut Scene, output: &'static str, time: Duration) {
    scene.set_aside(output, "return redis.call('SET', KEYS[1], 'no output')");
    lasts(time);
    scene.redis.run::<()>(&["DEL", output]);
}

fn no_key(scene: &Scene, key: &str, time: Duration) {
    let left = KEYS.iter().filter(|other| **other != key).map(|key| format!("~{key}"));
    let rights: Vec<String> = ["resetkeys".to_owned()].into_iter().chain(left).collect();
    without(scene, &rights.iter().map(String::as_str).collect::<Vec<_>>(), time);
}

fn without(scene: &Scene, rights: &[&str], time: Duration) {
    scene.redis.run::<()>(&[&["ACL", "SETUSER", "handlerd"], rights].concat());
    lasts(time);
    scene.redis.run::<()>(&["ACL", "SETUSER", "handlerd", "allkeys", "allchannels", "+@all"]);
}

/// Redis has the new password first, and whoever connects meanwhile is refused.
fn password_rotated(scene: &mut Scene, time: Duration) -> Instant {
    let password = scene.next_password();
    let new = format!(">{password}");
    scene.redis.run::<()>(&["ACL", "SETUSER", "handlerd", "resetpass", &new]);
    // A Redis that starts again knows it, too.
    scene.redis.run::<()>(&["CONFIG", "REWRITE"]);
    scene.redis.run::<u64>(&["CLIENT", "KILL", "USER", "handlerd"]);
    lasts(time);
    std::fs::write(scene.password_file(), password).expect("a password is written");
    Instant::now()
}

/// What was not finished, or was finished out of order, may come again, and what was finished while
/// the cursor was forbidden; nothing else may.
fn group_destroyed(scene: &mut Scene) {
    let script = "local groups = redis.call('XINFO', 'GROUPS', KEYS[1]) \
        local rows = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1) \
        redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1]) \
        return {rows[1] and rows[1][1] or groups[1][8], groups[1][8], \
            string.sub(redis.call('GET', KEYS[2]) or 'f0-0', 2)}";
    let (lowest, highest, cursor): (String, String, String) =
        scene.eval(script, &[IN, CURSOR], &[GROUP]);
    let lowest = [lowest, cursor].into_iter().min_by_key(|id| message::number_of_id(id));
    let lowest = lowest.expect("one of two");
    for number in message::number_of_id(&lowest)..=message::number_of_id(&highest) {
        scene.ledger.again.add(number);
    }
}

/// Entries vanish that nobody has read, and some that are in hand.
fn stream_trimmed(scene: &mut Scene, time: Duration) {
    let all: Vec<usize> = (0..DAEMONS).collect();
    all.iter().for_each(|&place| scene.daemon(place).signal(Signal::STOP));
    lasts(time);
    let script = "local groups = redis.call('XINFO', 'GROUPS', KEYS[1]) \
        local gone = {} \
        for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 5)) do \
            gone[#gone + 1] = row[1] \
        end \
        local unread = redis.call('XRANGE', KEYS[1], '(' .. groups[1][8], '+', 'COUNT', 50) \
        for _, row in ipairs(unread) do gone[#gone + 1] = row[1] end \
        for _, id in ipairs(gone) do redis.call('XDEL', KEYS[1], id) end \
        return gone";
    let gone: Vec<String> = scene.eval(script, &[IN], &[GROUP]);
    gone.iter().for_each(|id| scene.ledger.trimmed.add(message::number_of_id(id)));
    all.iter().for_each(|&place| scene.daemon(place).signal(Signal::CONT));
}

/// Steps that a daemon takes all the time, or when it is started or stopped.
const STEPS: [Step; 11] = [
    Step::OwnTaken,
    Step::Claimed,
    Step::Read,
    Step::Begun,
    Step::Handled,
    Step::InLine,
    Step::LetterInLine,
    Step::FinishSent,
    Step::FinishAnswered,
    Step::GivingBack,
    Step::GivenBack,
];

/// Killed, and what is started in its place kills itself at some step; or is killed, where it takes
/// that step too seldom.
fn killed_at_step(scene: &mut Scene, place: usize, random: &mut Random) {
    const LIMIT: Duration = Duration::from_secs(3);
    let step = STEPS[random.below(STEPS.len() as u64) as usize];
    let (rarely, times) = (1 + random.below(2), 1 + random.below(40));
    let (at_end, time) = (random.time(400, 1200), Instant::now());
    let times = match step {
        Step::Begun | Step::Handled | Step::InLine => times,
        Step::GivingBack | Step::GivenBack => 1,
        _ => rarely,
    };
    scene.kill_daemon(place);
    scene.start_daemon_that_dies(place, &format!("{}:{times}", step.name()));
    match step {
        Step::LetterInLine => scene.feeder.misbehave(["reject"; 12]),
        Step::GivingBack | Step::GivenBack => {
            lasts(at_end);
            scene.daemon(place).signal(Signal::TERM);
        }
        _ => {}
    }
    while scene.daemon(place).runs() && time.elapsed() < LIMIT {
        lasts(Duration::from_millis(2));
    }
    scene.daemons[place] = None;
    scene.start_daemon(place);
}

/// Each daemon that is given the message ends; all are started again, until it is a dead letter.
fn plugin_kills(scene: &mut Scene) {
    const CRASHES: &str = "local found = 0 \
        for _, row in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do \
            for n = 1, #row[2], 2 do \
                if row[2][n] == 'handlerd-kind' and row[2][n + 1] == 'crash' then found = found + 1 end \
            end \
        end \
        return found";
    scene.collect();
    scene.feeder.misbehave(["die"]);
    wait_until("what kills daemons to be a dead letter", || {
        scene.start_those_that_ended();
        scene.eval::<u64>(CRASHES, &[DEAD], &[]) > 0
    });
    // Another daemon may have it in hand still, when it was claimed too soon.
    let fed = scene.feeder.fed();
    wait_until("all messages to be done", || {
        scene.start_those_that_ended();
        scene.has_caught_up(fed)
    });
}
