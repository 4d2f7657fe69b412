//! The whole screen of a terminal, drawn again in place. The terminal is given back as it was.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Stdout, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// How often to look whether a key was pressed.
const LOOK_FOR_KEYS: Duration = Duration::from_millis(50);

/// Another screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The screen behind standard output, and the keys of standard input.
pub(crate) struct Screen {
    out: Stdout,
    keys: Option<Keys>,
    resized: Signal,
}

/// What the user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Presses a key that has a letter.
    Key(u8),
    /// Gives the terminal another size.
    Resize,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When the terminal cannot be written to, or signals cannot be listened for.
    pub(crate) fn enter() -> io::Result<Self> {
        let mut screen = Self {
            out: io::stdout(),
            // Without keys it is still ended by a signal.
            keys: Keys::take().ok(),
            resized: signal(SignalKind::window_change())?,
        };
        screen.write(ENTER)?;
        Ok(screen)
    }

    /// Shows these lines; those that the terminal has no room for are counted.
    ///
    /// # Errors
    /// When the terminal cannot be written to.
    pub(crate) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let size = terminal_size::terminal_size_of(&self.out);
        let (width, height) = size.map_or((80, 24), |(width, height)| (width.0, height.0));
        self.write(&frame(lines, width.into(), height.into()))
    }

    /// Waits for the user.
    pub(crate) async fn input(&mut self) -> Input {
        let key = async {
            match &mut self.keys {
                Some(keys) => keys.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            key = key => Input::Key(key),
            _ = self.resized.recv() => Input::Resize,
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that went away is not missed.
        let _ = self.write(LEAVE);
    }
}

/// Keys as they are pressed, and not shown.
struct Keys {
    input: File,
    before: Termios,
}

impl Keys {
    fn take() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&input)?;
        let mut mode = before.clone();
        mode.local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO);
        mode.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        mode.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&input, SetArg::TCSADRAIN, &mode)?;
        let input = File::from(input);
        Ok(Self { input, before })
    }

    /// The next key; never, when the terminal has gone.
    ///
    /// Looks now and then whether there is one: a read that waits for it could outlive the screen.
    async fn next(&mut self) -> u8 {
        loop {
            match self.read() {
                Ok(Some(key)) => return key,
                Ok(None) => sleep(LOOK_FOR_KEYS).await,
                Err(_) => return std::future::pending().await,
            }
        }
    }

    fn read(&mut self) -> io::Result<Option<u8>> {
        let mut input = [PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
        if poll(&mut input, PollTimeout::ZERO)? == 0 {
            return Ok(None);
        }
        let mut key = [0];
        self.input.read_exact(&mut key)?;
        Ok(Some(key[0]))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that went away is not missed.
        let _ = tcsetattr(&self.input, SetArg::TCSADRAIN, &self.before);
    }
}

/// What draws the lines over those that were there before, in one write, so that nothing flickers.
fn frame(lines: &[String], width: usize, height: usize) -> String {
    let shown = if lines.len() > height {
        height.saturating_sub(1)
    } else {
        lines.len()
    };
    let mut text = "\x1b[H".to_owned();
    for (place, line) in lines[..shown].iter().enumerate() {
        let newline = if place > 0 { "\r\n" } else { "" };
        text.push_str(newline);
        // The last column stays free: what is erased from there on could be part of the line.
        cut(&mut text, line, width.saturating_sub(1));
        text.push_str("\x1b[K");
    }
    if shown < lines.len() {
        let _ = write!(text, "\r\n⋮ {} lines more\x1b[K", lines.len() - shown);
    }
    text.push_str("\x1b[J");
    text
}

/// Adds a line without the columns that there is no room for. Escapes take none.
fn cut(text: &mut String, line: &str, width: usize) {
    let mut columns = 0;
    let mut in_escape = false;
    for char in line.chars() {
        if in_escape {
            in_escape = char != 'm';
        } else if char == '\x1b' {
            in_escape = true;
        } else if columns == width {
            // Styles that end later still have to.
            continue;
        } else {
            columns += 1;
        }
        text.push(char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_are_drawn_over_those_before() {
        assert_eq!(
            frame(&lines(&["one", "", "three"]), 80, 24),
            "\x1b[Hone\x1b[K\r\n\x1b[K\r\nthree\x1b[K\x1b[J"
        );
    }

    #[test]
    fn what_has_no_room_is_cut_and_counted() {
        let many = lines(&["\x1b[1mbold\x1b[0m", "größer", "c", "d"]);
        assert_eq!(
            frame(&many, 4, 3),
            "\x1b[H\x1b[1mbol\x1b[0m\x1b[K\r\ngrö\x1b[K\r\n⋮ 2 lines more\x1b[K\x1b[J"
        );
        assert_eq!(frame(&many, 0, 0), "\x1b[H\r\n⋮ 4 lines more\x1b[K\x1b[J");
    }
}
