//! What a file is, by its bytes. Names and headers say what somebody believes of it.

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaKind {
    /// To look at.
    Image,
    /// To listen to.
    Audio,
    /// Both.
    Video,
}

impl MediaKind {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

/// A format that models take or make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `image/png`
    Png,
    /// `image/jpeg`
    Jpeg,
    /// `image/gif`
    Gif,
    /// `image/webp`
    Webp,
    /// `audio/wav`
    Wav,
    /// `audio/mpeg`
    Mp3,
    /// `audio/flac`
    Flac,
    /// `audio/ogg`, Vorbis or Opus.
    Ogg,
    /// `audio/aac`
    Aac,
    /// `audio/mp4`
    M4a,
    /// `video/mp4`
    Mp4,
    /// `video/webm`; one that has no pictures is not told apart.
    Webm,
    /// `video/quicktime`
    Quicktime,
}

impl MediaType {
    /// The format that bytes have; nothing where it is none of these.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let at = |start: usize, magic: &[u8]| {
            let end = start.checked_add(magic.len());
            end.and_then(|end| bytes.get(start..end)) == Some(magic)
        };
        let riff = at(0, b"RIFF");
        Some(match bytes {
            _ if at(0, b"\x89PNG\r\n\x1a\n") => Self::Png,
            _ if at(0, b"\xff\xd8\xff") => Self::Jpeg,
            _ if at(0, b"GIF87a") || at(0, b"GIF89a") => Self::Gif,
            _ if riff && at(8, b"WEBP") => Self::Webp,
            _ if riff && at(8, b"WAVE") => Self::Wav,
            _ if at(0, b"fLaC") => Self::Flac,
            _ if at(0, b"OggS") => Self::Ogg,
            _ if at(0, b"\x1a\x45\xdf\xa3") => Self::Webm,
            _ if at(4, b"ftyp") => match bytes.get(8..12)? {
                b"M4A " | b"M4B " => Self::M4a,
                b"qt  " => Self::Quicktime,
                b"heic" | b"heix" | b"mif1" | b"avif" => return None,
                _ => Self::Mp4,
            },
            _ if at(0, b"ID3") => Self::Mp3,
            // A frame: eleven set bits. The next two bits of an MPEG frame are the version, then comes the layer, which
            // ADTS sets to zero.
            [0xff, second, third, ..] if second & 0xf6 == 0xf0 && third >> 6 != 3 => Self::Aac,
            [0xff, second, third, ..]
                if second & 0xe0 == 0xe0
                    && second & 0x18 != 0x08
                    && second & 0x06 == 0x02
                    && third >> 4 != 0x0f =>
            {
                Self::Mp3
            }
            _ => return None,
        })
    }

    /// What it is for.
    #[must_use]
    pub const fn kind(self) -> MediaKind {
        match self {
            Self::Png | Self::Jpeg | Self::Gif | Self::Webp => MediaKind::Image,
            Self::Wav | Self::Mp3 | Self::Flac | Self::Ogg | Self::Aac | Self::M4a => {
                MediaKind::Audio
            }
            Self::Mp4 | Self::Webm | Self::Quicktime => MediaKind::Video,
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
            Self::Wav => "audio/wav",
            Self::Mp3 => "audio/mpeg",
            Self::Flac => "audio/flac",
            Self::Ogg => "audio/ogg",
            Self::Aac => "audio/aac",
            Self::M4a => "audio/mp4",
            Self::Mp4 => "video/mp4",
            Self::Webm => "video/webm",
            Self::Quicktime => "video/quicktime",
        }
    }

    /// What the name of such a file ends in.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Gif => "gif",
            Self::Webp => "webp",
            Self::Wav => "wav",
            Self::Mp3 => "mp3",
            Self::Flac => "flac",
            Self::Ogg => "ogg",
            Self::Aac => "aac",
            Self::M4a => "m4a",
            Self::Mp4 => "mp4",
            Self::Webm => "webm",
            Self::Quicktime => "mov",
        }
    }

    /// Width and height of an image of this format, where its head says so.
    #[must_use]
    pub fn pixels(self, bytes: &[u8]) -> Option<(u32, u32)> {
        match self {
            Self::Png => Some((be32(bytes, 16)?, be32(bytes, 20)?)),
            Self::Gif => Some((le16(bytes, 6)?, le16(bytes, 8)?)),
            Self::Jpeg => jpeg_pixels(bytes),
            Self::Webp => webp_pixels(bytes),
            _ => None,
        }
    }

    /// How long a sound of this format is, in seconds. Known only of WAV, the one format whose head says so.
    #[must_use]
    pub fn seconds(self, bytes: &[u8]) -> Option<f64> {
        if self != Self::Wav {
            return None;
        }
        let (mut rate, mut at) = (None, 12_usize);
        loop {
            let name = bytes.get(at..at.checked_add(4)?)?;
            let size = le32(bytes, at + 4)?;
            let body = at + 8;
            match name {
                b"fmt " => rate = le32(bytes, body + 8).filter(|rate| *rate > 0),
                // A file that was written as it came does not know its size.
                b"data" => {
                    let here = u32::try_from(bytes.len().saturating_sub(body)).ok()?;
                    return Some(f64::from(size.min(here)) / f64::from(rate?));
                }
                _ => {}
            }
            // A chunk of odd size is followed by a byte that does not count.
            let size = usize::try_from(size).ok()?;
            at = body.checked_add(size)?.checked_add(size % 2)?;
        }
    }
}

fn jpeg_pixels(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2_usize;
    loop {
        if *bytes.get(at)? != 0xff {
            return None;
        }
        let marker = *bytes.get(at + 1)?;
        match marker {
            // Fill bytes, and markers without a body.
            0xff => at += 1,
            0x01 | 0xd0..=0xd8 => at += 2,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((be16(bytes, at + 7)?, be16(bytes, at + 5)?));
            }
            _ => {
                let size = usize::try_from(be16(bytes, at + 2)?).ok()?;
                at = at.checked_add(2)?.checked_add(size.max(2))?;
            }
        }
    }
}

fn webp_pixels(bytes: &[u8]) -> Option<(u32, u32)> {
    match bytes.get(12..16)? {
        b"VP8 " => Some((le16(bytes, 26)? & 0x3fff, le16(bytes, 28)? & 0x3fff)),
        b"VP8L" => {
            let bits = le32(bytes, 21)?;
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => Some((le24(bytes, 24)? + 1, le24(bytes, 27)? + 1)),
        _ => None,
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u16::from_be_bytes).map(u32::from)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_be_bytes)
}

fn le16(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u16::from_le_bytes).map(u32::from)
}

fn le24(bytes: &[u8], at: usize) -> Option<u32> {
    let [a, b, c] = field(bytes, at)?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<MediaType>) {
        assert_eq!(MediaType::of(bytes), expected, "{bytes:?}");
        // However much of it is there.
        for end in 0..bytes.len() {
            if let Some(part) = MediaType::of(&bytes[..end]) {
                let _ = (part.pixels(&bytes[..end]), part.seconds(&bytes[..end]));
            }
        }
    }

    #[test]
    fn bytes_say_what_they_are() {
        check(b"\x89PNG\r\n\x1a\n", Some(MediaType::Png));
        check(b"\xff\xd8\xff\xe0", Some(MediaType::Jpeg));
        check(b"GIF89a", Some(MediaType::Gif));
        check(b"RIFF\0\0\0\0WEBPVP8 ", Some(MediaType::Webp));
        check(b"RIFF\0\0\0\0WAVEfmt ", Some(MediaType::Wav));
        check(b"RIFF\0\0\0\0AVI LIST", None);
        check(b"ID3\x04", Some(MediaType::Mp3));
        check(b"\xff\xfb\x90\x64", Some(MediaType::Mp3));
        check(b"\xff\xf1\x50\x80", Some(MediaType::Aac));
        check(b"fLaC", Some(MediaType::Flac));
        check(b"OggS", Some(MediaType::Ogg));
        check(b"\0\0\0\x20ftypM4A ", Some(MediaType::M4a));
        check(b"\0\0\0\x20ftypisom", Some(MediaType::Mp4));
        check(b"\0\0\0\x14ftypqt  ", Some(MediaType::Quicktime));
        check(b"\0\0\0\x18ftypheic", None);
        check(b"\x1a\x45\xdf\xa3", Some(MediaType::Webm));
        check(b"<svg xmlns=", None);
        check(b"%PDF-1.7", None);
        check(b"\xff\xff\xff\xff", None);
        check(b"", None);
    }

    #[test]
    fn heads_say_how_large_and_how_long() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([0, 0, 1, 0, 0, 0, 0, 64]);
        check(&png, Some(MediaType::Png));
        assert_eq!(MediaType::Png.pixels(&png), Some((256, 64)));
        let gif = b"GIF89a\x20\0\x10\0";
        assert_eq!(MediaType::Gif.pixels(gif), Some((32, 16)));
        let jpeg = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\0\x10\0\x20";
        check(jpeg, Some(MediaType::Jpeg));
        assert_eq!(MediaType::Jpeg.pixels(jpeg), Some((32, 16)));
        let lossless = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x1f\xc0\x03\0";
        assert_eq!(MediaType::Webp.pixels(lossless), Some((32, 16)));
        let extended = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\x1f\0\0\x0f\0\0";
        assert_eq!(MediaType::Webp.pixels(extended), Some((32, 16)));

        let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        wav.extend(8000_u32.to_le_bytes());
        wav.extend(16_000_u32.to_le_bytes());
        wav.extend(b"\x02\0\x10\0LIST\x01\0\0\0a\0data\xff\xff\xff\xff");
        wav.extend([0; 8000]);
        check(&wav, Some(MediaType::Wav));
        assert_eq!(MediaType::Wav.seconds(&wav), Some(0.5));
    }
}
