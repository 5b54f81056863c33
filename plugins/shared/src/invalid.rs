//! What becomes of a message that a plugin can't make sense of: the setting `invalid`.

use handlerd_plugin::config::Settings;
use handlerd_plugin::{Failure, Message};

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// It goes on along the chain, unchanged.
    Pass,
    /// Its way ends.
    Drop,
    /// It fails, with the reason, for good.
    Reject,
}

impl Invalid {
    /// The setting `invalid`; [`Invalid::Reject`] where there is none, so that nothing is lost
    /// unseen.
    ///
    /// # Errors
    /// Where it is none of the three words.
    pub fn read(settings: &mut Settings) -> Result<Self, String> {
        let choices = [("pass", Self::Pass), ("drop", Self::Drop), ("reject", Self::Reject)];
        Ok(settings.choice("invalid", &choices)?.unwrap_or(Self::Reject))
    }

    /// What the plugin answers for the message.
    ///
    /// # Errors
    /// [`Failure::Reject`] with the reason, of [`Invalid::Reject`].
    pub fn answer(self, message: Message, reason: String) -> Result<Vec<Message>, Failure> {
        match self {
            Self::Pass => Ok(vec![message]),
            Self::Drop => Ok(Vec::new()),
            Self::Reject => Err(Failure::Reject(reason)),
        }
    }
}
