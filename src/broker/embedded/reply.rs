//! Answers, in the protocol that a client has asked for.
//!
//! They are made as RESP3 frames; RESP2 has a form for each. Both are encoded by the codec.

use bytes::{Bytes, BytesMut};
use redis_protocol::error::RedisProtocolError;
pub(super) use redis_protocol::resp3::types::BytesFrame as Reply;
use redis_protocol::resp3::types::VerbatimStringFormat;
use redis_protocol::{resp2, resp3};

/// The protocol that a client speaks; 2 until HELLO says 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp2,
    Resp3,
}

impl Protocol {
    /// 2 or 3.
    pub fn number(self) -> i64 {
        match self {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        }
    }
}

pub(super) fn simple(text: &'static str) -> Reply {
    Reply::SimpleString { data: Bytes::from_static(text.as_bytes()), attributes: None }
}

/// An error; its text is one line and has no byte of a client's in it that isn't printable.
pub(super) fn error(text: impl Into<String>) -> Reply {
    Reply::SimpleError { data: text.into().replace(['\r', '\n'], " ").into(), attributes: None }
}

pub(super) fn number(data: usize) -> Reply {
    Reply::Number { data: i64::try_from(data).unwrap_or(i64::MAX), attributes: None }
}

pub(super) fn string(data: impl Into<Bytes>) -> Reply {
    Reply::BlobString { data: data.into(), attributes: None }
}

/// Text for people.
pub(super) fn text(data: String) -> Reply {
    let format = VerbatimStringFormat::Text;
    Reply::VerbatimString { data: data.into(), format, attributes: None }
}

pub(super) fn array(data: Vec<Reply>) -> Reply {
    Reply::Array { data, attributes: None }
}

pub(super) fn map(pairs: impl IntoIterator<Item = (&'static str, Reply)>) -> Reply {
    let data = pairs.into_iter().map(|(key, value)| (string(key), value)).collect();
    Reply::Map { data, attributes: None }
}

/// What a client gets without having asked at this moment.
pub(super) fn push(data: Vec<Reply>) -> Reply {
    Reply::Push { data, attributes: None }
}

/// Encode an answer.
///
/// # Errors
/// Those of the codec, for frames that aren't made here.
pub(super) fn encode(reply: Reply, protocol: Protocol) -> Result<Bytes, RedisProtocolError> {
    let mut out = BytesMut::new();
    match protocol {
        Protocol::Resp2 => resp2::encode::extend_encode(&mut out, &in_resp2(reply)?, false)?,
        Protocol::Resp3 => resp3::encode::complete::extend_encode(&mut out, &reply, false)?,
    };
    Ok(out.freeze())
}

/// The form that RESP2 has for an answer: maps and pushes are arrays there.
fn in_resp2(reply: Reply) -> Result<resp2::types::BytesFrame, RedisProtocolError> {
    use resp2::types::BytesFrame as Old;
    Ok(match reply {
        Reply::SimpleString { data, .. } => Old::SimpleString(data),
        Reply::SimpleError { data, .. } => Old::Error(data),
        Reply::Number { data, .. } => Old::Integer(data),
        Reply::BlobString { data, .. } | Reply::VerbatimString { data, .. } => {
            Old::BulkString(data)
        }
        Reply::Null => Old::Null,
        Reply::Array { data, .. } | Reply::Push { data, .. } => {
            Old::Array(data.into_iter().map(in_resp2).collect::<Result<_, _>>()?)
        }
        Reply::Map { data, .. } => {
            let items = data.into_iter().flat_map(|(key, value)| [key, value]);
            Old::Array(items.map(in_resp2).collect::<Result<_, _>>()?)
        }
        _ => {
            let kind = redis_protocol::error::RedisProtocolErrorKind::EncodeError;
            return Err(RedisProtocolError::new(kind, "no answer of the embedded broker"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_form_in_both_protocols() {
        for (reply, old, new) in [
            (simple("OK"), "+OK\r\n", "+OK\r\n"),
            (error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (number(3), ":3\r\n", ":3\r\n"),
            (string("a"), "$1\r\na\r\n", "$1\r\na\r\n"),
            (text("a".to_owned()), "$1\r\na\r\n", "=5\r\ntxt:a\r\n"),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (array(vec![]), "*0\r\n", "*0\r\n"),
            (map([("a", number(1))]), "*2\r\n$1\r\na\r\n:1\r\n", "%1\r\n$1\r\na\r\n:1\r\n"),
            (push(vec![Reply::Null]), "*1\r\n$-1\r\n", ">1\r\n_\r\n"),
        ] {
            assert_eq!(encode(reply.clone(), Protocol::Resp2).unwrap(), old);
            assert_eq!(encode(reply, Protocol::Resp3).unwrap(), new);
        }
    }
}
