//! Paths with wildcards, as rules have them.

use std::fmt;

use super::NormalPath;

/// A path with wildcards, relative to a mount: literals, `*` for exactly one segment, and at the end perhaps `**` for
/// this and everything below.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    segments: Box<[Segment]>,
    below: bool,
}

/// One segment of a [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Exactly this text.
    Literal(Box<str>),
    /// `*`: any text.
    Any,
}

/// Segments of a pattern. Walking recurses once per segment, so this bounds the stack; no real path comes close.
const SEGMENTS_MAX: usize = 64;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What no request could match, or what would be read in two ways; in words that follow "is not a path: ".
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let path = NormalPath::written(text)?;
        if text != "/" && text.ends_with('/') {
            return Err("it ends with a slash, which makes no difference; leave that out");
        }
        let mut segments: Vec<_> = path.segments().filter(|segment| !segment.is_empty()).collect();
        let below = segments.last() == Some(&"**");
        if below {
            segments.pop();
        }
        if segments.len() > SEGMENTS_MAX {
            return Err("it has more than 64 segments");
        }
        let segments = segments.into_iter().map(Segment::parse).collect::<Result<_, _>>()?;
        Ok(Self { segments, below })
    }

    /// Its segments, without a `**` at the end.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether it ends with `**`.
    #[must_use]
    pub const fn is_below(&self) -> bool {
        self.below
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "*" => Ok(Self::Any),
            "**" => Err("`**` is this and everything below, so it can only be the last segment"),
            text if text.contains('*') => Err("`*` is a whole segment and never a part of one"),
            text => Ok(Self::Literal(text.into())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        match (self.below, self.segments.is_empty()) {
            (true, _) => f.write_str("/**"),
            (false, true) => f.write_str("/"),
            (false, false) => Ok(()),
        }
    }
}
