//! What can happen to daemons, to Redis, and to the way between them.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::random::Random;
use crate::scene::{CLAIM_IDLE, DAEMONS, DEAD, GROUP, IN, LIST, OUT, SAID, Scene};

/// One thing that happens and passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    DaemonKilled,
    DaemonLost,
    RedisKilled,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 3] = [Fault::DaemonKilled, Fault::DaemonLost, Fault::RedisKilled];

    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::DaemonKilled => "daemon killed",
            Fault::DaemonLost => "daemon lost, another one comes",
            Fault::RedisKilled => "Redis killed",
        }
    }

    /// Let it happen, and pass. Answers since when Redis accepts all that daemons write.
    pub fn happen(self, scene: &mut Scene, random: &mut Random) -> Instant {
        let place = random.below(DAEMONS as u64) as usize;
        match self {
            Fault::DaemonKilled => {
                scene.kill_daemon(place);
                scene.start_daemon(place);
            }
            Fault::DaemonLost => {
                scene.kill_daemon(place);
                lasts(random.time(0, 1500));
                scene.forget_identity(place);
                scene.start_daemon(place);
            }
            Fault::RedisKilled => {
                scene.redis.kill();
                lasts(random.time(0, 1500));
                return scene.redis.restart();
            }
        }
        Instant::now()
    }
}

/// The fault's own time, which is not a wait for anything.
fn lasts(time: Duration) {
    std::thread::sleep(time);
}
