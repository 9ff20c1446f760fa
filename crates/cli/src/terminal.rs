//! Writing for people and programs: data to stdout, everything else to stderr; colours only where a
//! terminal reads them.

use crate::environment;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use fetchml_api::{TaskStatus, WorkerStatus};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write};

fn colours_wanted() -> bool {
    environment::var(environment::NO_COLOR).is_none()
}

/// Whether stderr is a terminal that may show progress bars.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether stdout is a terminal, whose picture may be painted anew.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether stderr may have colours.
pub(crate) fn stderr_colours() -> bool {
    stderr_is_terminal() && colours_wanted()
}

fn paint(text: &str, code: &str) -> String {
    if stderr_colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A line on stderr. That nobody can read it is no reason to fail.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A quiet line on stderr: progress and other asides.
pub(crate) fn say_aside(text: &str) {
    say(&paint(text, "2"));
}

/// Asks on stderr; the answer is typed behind it.
pub(crate) fn prompt(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{text}");
    let _ = stderr.flush();
}

/// What failed.
pub(crate) fn say_error(text: &str) {
    say(&format!("{} {text}", paint("error:", "1;31")));
}

/// What to try.
pub(crate) fn say_hint(text: &str) {
    say(&format!("{} {text}", paint("hint:", "1;36")));
}

/// What looks wrong but goes on.
pub(crate) fn say_warning(text: &str) {
    say(&format!("{} {text}", paint("warning:", "1;33")));
}

/// Data for people or pipes.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// Data for programs: indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(print(&serde_json::to_string_pretty(value)?)?)
}

/// A table with a header; the cells decide on colours.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    table_of(header.into())
}

/// The same, with columns that are known only when it is made.
pub(crate) fn table_of(header: Vec<&str>) -> Table {
    let columns = header.len();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    if io::stdout().is_terminal() && colours_wanted() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 2));
    }
    for column in 1..columns {
        if let Some(column) = table.column_mut(column) {
            column.set_padding((0, 2));
        }
    }
    table
}

/// A table as text, without trailing blanks.
pub(crate) fn table_text(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Prints a table.
pub(crate) fn print_table(table: &Table) -> io::Result<()> {
    print(&table_text(table))
}

/// Puts a new picture in place of all that is on the terminal.
pub(crate) fn repaint(picture: &str) -> io::Result<()> {
    print(&format!("\x1b[H\x1b[2J{picture}"))
}

/// A cell for a number.
pub(crate) fn number(value: impl std::fmt::Display) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

/// A cell for a task's status.
pub(crate) fn status(status: TaskStatus) -> Cell {
    let cell = Cell::new(status.as_str());
    match status {
        TaskStatus::Completed => cell.fg(Color::Green),
        TaskStatus::Failed => cell.fg(Color::Red),
        TaskStatus::Running => cell.fg(Color::Cyan),
        TaskStatus::Preparing | TaskStatus::Collecting => cell.fg(Color::Blue),
        TaskStatus::Queued => cell,
    }
}

/// A cell for a worker's status.
pub(crate) fn worker_status(status: WorkerStatus) -> Cell {
    let cell = Cell::new(status.as_str());
    match status {
        WorkerStatus::Active => cell.fg(Color::Green),
        WorkerStatus::Draining => cell.fg(Color::Yellow),
        WorkerStatus::Offline => cell.fg(Color::Red),
    }
}

/// Text from elsewhere made safe to show: control characters could steer the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}
