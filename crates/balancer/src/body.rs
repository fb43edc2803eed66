//! How far a message body goes. The bytes themselves are passed on as they are; this only proves that both sides agree on the end.

/// Longest line of a chunk size with its extensions, in bytes.
const CHUNK_LINE_MAX: u32 = 256;
/// Longest trailer section, in bytes.
const TRAILERS_MAX: u32 = 8 << 10;
/// Hexadecimal digits of a chunk size: 2^48 bytes are more than anyone sends.
const SIZE_DIGITS_MAX: u32 = 12;

/// What of a body is still to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing: there is none, or it is complete.
    #[default]
    Done,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All until the connection ends.
    UntilClose,
}

/// The framing is broken; nothing of the connection can be trusted any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadFraming;

/// Where in the chunked coding (RFC 9112 §7.1) the next byte stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chunks {
    place: Place,
    size: u64,
    /// Digits of the size, bytes of the line, or bytes of the trailers so far.
    seen: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    LineStart,
    Trailer,
    TrailerLf,
    LastLf,
}

impl Body {
    pub(crate) fn is_done(self) -> bool {
        self == Self::Done
    }

    /// Takes the bytes of `input` that belong to the body and says how many they are; what follows belongs to the next message. The
    /// bytes inside chunks, or all of them without chunks, are shown to `data`.
    pub(crate) fn feed(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadFraming> {
        match self {
            Self::Done => Ok(0),
            Self::UntilClose => {
                data(input);
                Ok(input.len())
            }
            Self::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                data(&input[..count]);
                *left -= count as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(count)
            }
            Self::Chunked(chunks) => {
                let (count, done) = chunks.feed(input, data)?;
                if done {
                    *self = Self::Done;
                }
                Ok(count)
            }
        }
    }
}

impl Chunks {
    fn feed(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<(usize, bool), BadFraming> {
        let mut at = 0;
        while at < input.len() {
            if self.place == Place::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(input.len() - at);
                data(&input[at..at + count]);
                at += count;
                self.size -= count as u64;
                if self.size == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            let done = self.step(input[at])?;
            at += 1;
            if done {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Takes one byte that is not data; says whether it was the last of the body.
    fn step(&mut self, byte: u8) -> Result<bool, BadFraming> {
        self.place = match (self.place, byte) {
            (Place::Size, _) if byte.is_ascii_hexdigit() => {
                self.seen += 1;
                if self.seen > SIZE_DIGITS_MAX {
                    return Err(BadFraming);
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.size = self.size << 4 | u64::from(digit);
                Place::Size
            }
            (Place::Size, b'\r') if self.seen > 0 => Place::SizeLf,
            (Place::Size, b';') if self.seen > 0 => Place::Extension,
            (Place::Extension, b'\r') => Place::SizeLf,
            (Place::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.bounded(CHUNK_LINE_MAX)?;
                Place::Extension
            }
            (Place::SizeLf, b'\n') => {
                self.seen = 0;
                if self.size > 0 { Place::Data } else { Place::LineStart }
            }
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size,
            (Place::LineStart, b'\r') => Place::LastLf,
            // A fold or an empty name is no trailer.
            (Place::LineStart, b' ' | b'\t' | b':') => return Err(BadFraming),
            (Place::LineStart | Place::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.bounded(TRAILERS_MAX)?;
                Place::Trailer
            }
            (Place::Trailer, b'\r') => Place::TrailerLf,
            (Place::TrailerLf, b'\n') => Place::LineStart,
            (Place::LastLf, b'\n') => return Ok(true),
            _ => return Err(BadFraming),
        };
        Ok(false)
    }

    fn bounded(&mut self, most: u32) -> Result<(), BadFraming> {
        self.seen += 1;
        if self.seen > most { Err(BadFraming) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds in pieces of `step` bytes; gives what was taken, what was inside, and the end state.
    fn feed(input: &[u8], step: usize) -> Result<(usize, Vec<u8>, bool), BadFraming> {
        let mut body = Body::Chunked(Chunks::default());
        let (mut taken, mut inside) = (0, Vec::new());
        for piece in input.chunks(step) {
            let count = body.feed(piece, |data| inside.extend_from_slice(data))?;
            taken += count;
            if body.is_done() {
                break;
            }
        }
        Ok((taken, inside, body.is_done()))
    }

    #[test]
    fn chunks_end_where_they_end_however_they_come() {
        let input = b"5\r\nhello\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nSum: 1\r\n\r\nGET / HTTP/1.1\r\n";
        let end = input.len() - b"GET / HTTP/1.1\r\n".len();
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(feed(input, step), Ok((end, b"hello0123456789".to_vec(), true)), "step {step}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(300));
        let trailers = format!("0\r\nA: {}\r\n\r\n", "b".repeat(9000));
        let cases: [&[u8]; 14] = [
            b"\r\n",
            b"5\nhello\n",
            b"g\r\n",
            b"-1\r\n",
            b"+5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"1000000000000000\r\n",
            b"1;a\x00b\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\n folded\r\n\r\n",
        ];
        for case in cases.into_iter().chain([long.as_bytes(), trailers.as_bytes()]) {
            for step in [1, 1000] {
                assert_eq!(feed(case, step), Err(BadFraming), "{}", String::from_utf8_lossy(case));
            }
        }
    }

    #[test]
    fn a_length_takes_its_bytes_and_no_more() {
        let mut body = Body::Length(5);
        assert_eq!(body.feed(b"abc", |_| ()), Ok(3));
        assert_eq!(body, Body::Length(2));
        assert_eq!(body.feed(b"deXYZ", |_| ()), Ok(2));
        assert!(body.is_done());
        assert_eq!(body.feed(b"XYZ", |_| ()), Ok(0));
    }
}
