//! As much RESP as bare contestants need, with nothing in between.

/// Append a number and the end of its line.
pub fn number(out: &mut Vec<u8>, mut n: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Append one part of a command.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'$');
    number(out, bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Append the text that the plugin `announce` makes of a message, as one part of a command.
pub fn announced(out: &mut Vec<u8>, channel: &[u8], payload: &[u8]) {
    const PARTS: [&[u8]; 3] = [b"Received message '", b"' from channel '", b"'"];
    let length = PARTS.iter().map(|p| p.len()).sum::<usize>() + channel.len() + payload.len();
    out.push(b'$');
    number(out, length);
    for part in [PARTS[0], payload, PARTS[1], channel, PARTS[2], b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The number after a line's first byte, and where the next line begins; `None` when the line isn't
/// whole yet.
pub fn line(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    let mut number = 0;
    let mut at = start + 1;
    loop {
        match *bytes.get(at)? {
            b'\r' => return Some((number, at + 2)),
            digit => number = number * 10 + usize::from(digit - b'0'),
        }
        at += 1;
    }
}
