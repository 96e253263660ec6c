//! What a runtime left in its log: `--log-format json` writes one object per
//! line. The text is for people; nothing here decides anything by it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use serde::Deserialize;

/// How much of the log's end is looked at, in bytes. The reason stands last.
const TAIL_BYTES: u64 = 16 * 1024;
/// How much of it a client gets to read, in bytes.
const MESSAGE_BYTES: usize = 4 * 1024;

#[derive(Deserialize)]
struct Line {
    level: Option<String>,
    msg: String,
}

/// Why the runtime failed, in its own words: its last error, else its last
/// words, else `None`.
pub(super) fn reason(log: &mut File) -> io::Result<Option<String>> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    log.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(last_error(&String::from_utf8_lossy(&bytes)))
}

fn last_error(text: &str) -> Option<String> {
    let entry = |line: &str| serde_json::from_str::<Line>(line).ok();
    let is_error = |line: &Line| matches!(line.level.as_deref(), Some("error" | "fatal" | "panic"));
    let said = text.lines().rev().filter_map(entry).find(is_error).map(|line| line.msg);
    // A runtime that fails before it has opened its log writes plain text.
    let message = said.unwrap_or_else(|| text.trim().to_owned());
    if message.is_empty() {
        return None;
    }
    let mut start = message.len().saturating_sub(MESSAGE_BYTES);
    while !message.is_char_boundary(start) {
        start += 1;
    }
    Some(message[start..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts() {
        let text = concat!(
            "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\n",
            "{\"level\":\"error\",\"msg\":\"second\",\"time\":\"t\"}\n",
            "{\"level\":\"warning\",\"msg\":\"cleanup\",\"time\":\"t\"}\n",
        );
        assert_eq!(last_error(text).as_deref(), Some("second"));
    }

    #[test]
    fn plain_text_is_better_than_nothing() {
        assert_eq!(last_error("unknown flag\n").as_deref(), Some("unknown flag"));
        assert_eq!(last_error(" \n"), None);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let message = last_error(&"ä".repeat(MESSAGE_BYTES)).unwrap();
        assert!(message.len() <= MESSAGE_BYTES);
    }
}
