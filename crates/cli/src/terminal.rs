//! What the standard streams of this process are.

use std::io::IsTerminal as _;

use crate::render::style::Styling;

/// What the standard streams are, looked at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// How to style what goes to standard output.
    pub(crate) out: Styling,
    /// How to style what goes to standard error.
    pub(crate) err: Styling,
    /// Whether standard output is a terminal on which lines can be drawn again.
    pub(crate) out_is_live: bool,
    /// Whether standard error is one.
    pub(crate) err_is_live: bool,
}

impl Terminal {
    /// Looks at the streams and at the environment (see <https://no-color.org>).
    pub(crate) fn detect() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let styling = |is_terminal| {
            if is_terminal && !dumb && !set("NO_COLOR") {
                Styling::Styled
            } else {
                Styling::Plain
            }
        };
        let out_is_terminal = std::io::stdout().is_terminal();
        let err_is_terminal = std::io::stderr().is_terminal();
        Self {
            out: styling(out_is_terminal),
            err: styling(err_is_terminal),
            out_is_live: out_is_terminal && !dumb,
            err_is_live: err_is_terminal && !dumb,
        }
    }

    /// Columns and lines of the terminal behind standard error.
    pub(crate) fn size() -> (usize, usize) {
        terminal_size::terminal_size_of(std::io::stderr()).map_or((80, 24), |(width, height)| {
            (width.0.into(), height.0.into())
        })
    }
}
