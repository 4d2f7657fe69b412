//! A terminal without a screen, for programs that draw.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::DEADLINE;

/// A terminal, and all that was written to it.
pub(crate) struct PseudoTerminal {
    keyboard: File,
    /// What a program has as its terminal.
    line: OwnedFd,
    written: mpsc::UnboundedReceiver<Vec<u8>>,
    text: Vec<u8>,
    /// Where what was not looked for yet begins.
    looked: usize,
}

/// A program at a terminal.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl PseudoTerminal {
    pub(crate) fn open(columns: u16, rows: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).unwrap();
        let keyboard = File::from(pair.master);
        let mut screen = keyboard.try_clone().unwrap();
        let (sender, written) = mpsc::unbounded_channel();
        // Ends when nobody has the other side any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            keyboard,
            line: pair.slave,
            written,
            text: Vec::new(),
            looked: 0,
        }
    }

    /// Starts a program with this as its terminal.
    pub(crate) fn start(&self, mut command: Command) -> Program {
        let line = || Stdio::from(self.line.try_clone().unwrap());
        command.stdin(line()).stdout(line()).stderr(line());
        Program(command.spawn().unwrap())
    }

    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// How keys are handled.
    pub(crate) fn mode(&self) -> LocalFlags {
        tcgetattr(&self.line).unwrap().local_flags
    }

    /// Gives the terminal another size.
    pub(crate) async fn resize(&self, columns: u16, rows: u16) {
        let mut stty = Command::new("stty");
        stty.args(["cols", &columns.to_string(), "rows", &rows.to_string()]);
        let status = stty.stdin(self.line.try_clone().unwrap()).status();
        assert!(status.await.unwrap().success());
    }

    /// Everything that was written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// Waits until this is written, after what was waited for before.
    pub(crate) async fn shows(&mut self, part: &str) {
        let shows = async {
            loop {
                let news = String::from_utf8_lossy(&self.text[self.looked..]);
                if news.contains(part) {
                    break;
                }
                let bytes = self.written.recv().await.expect("the terminal is open");
                self.text.extend(bytes);
            }
        };
        let shown = timeout(DEADLINE, shows).await.is_ok();
        assert!(shown, "it does not show {part:?}: {:?}", self.text());
        self.looked = self.text.len();
    }

    /// Waits for the end of the program, and reads all that it wrote.
    pub(crate) async fn ended(&mut self, mut program: Program) -> ExitStatus {
        let status = timeout(DEADLINE, program.0.wait())
            .await
            .expect("the program ends before the deadline")
            .unwrap();
        // What comes through the line after everything else says that this was all.
        const END: &[u8] = b"\0end\0";
        File::from(self.line.try_clone().unwrap())
            .write_all(END)
            .unwrap();
        while !self.text.ends_with(END) {
            let bytes = timeout(DEADLINE, self.written.recv()).await;
            let bytes = bytes.expect("the end comes through before the deadline");
            self.text.extend(bytes.expect("the terminal is open"));
        }
        self.text.truncate(self.text.len() - END.len());
        status
    }
}
