//! The screen of `handlerd top`: what it shows, and what keys do to that. Knows no terminal.

use std::time::{SystemTime, UNIX_EPOCH};

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};

use super::columns::{CHANNELS, Column, HANDLERS, Shown, fitting, safe};
use super::rates;
use crate::cli::figures::span;
use crate::cli::status::wrongs;
use crate::status::{Role, State, Status};

/// Sentences about what is wrong that are shown.
const MOST_WRONGS: usize = 4;

/// Whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    On,
    /// It is to end.
    End,
}

/// All that is shown.
#[derive(Default)]
pub struct Screen {
    before: Option<Status>,
    now: Option<Status>,
    /// Why there was no answer to the last question.
    silence: Option<String>,
    focus: Focus,
    channels: View,
    handlers: View,
}

/// The table that keys are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Focus {
    #[default]
    Channels,
    Handlers,
}

/// How a table is seen.
#[derive(Clone, Debug, Default)]
struct View {
    /// The column that it is sorted by.
    sort: usize,
    is_reversed: bool,
    /// The first row that is seen.
    first: usize,
    /// The columns that there was room for.
    columns: Vec<usize>,
    /// Rows that there is room for, and that there are.
    room: usize,
    rows: usize,
}

impl View {
    /// Sort by the column so far to the right of the present one, of those that are seen.
    fn sort_by(&mut self, by: isize) {
        let seen = self.columns.len().cast_signed();
        let now = self.columns.iter().position(|column| *column == self.sort);
        if seen > 0 {
            let next = (now.unwrap_or(0).cast_signed() + by).rem_euclid(seen);
            self.sort = self.columns[next.cast_unsigned()];
        }
    }

    fn scroll(&mut self, by: isize) {
        let last = self.rows.saturating_sub(self.room);
        self.first = self.first.saturating_add_signed(by).min(last);
    }
}

impl Screen {
    /// The daemon has answered, or not.
    pub fn take(&mut self, answer: Result<Status, String>) {
        match answer {
            Ok(status) => {
                self.before = self.now.replace(status);
                self.silence = None;
            }
            Err(reason) => self.silence = Some(reason),
        }
    }

    /// A key.
    pub fn key(&mut self, key: KeyEvent) -> Flow {
        if key.kind == KeyEventKind::Release {
            return Flow::On;
        }
        let view = match self.focus {
            Focus::Channels => &mut self.channels,
            Focus::Handlers => &mut self.handlers,
        };
        let page = view.room.max(1).cast_signed();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Flow::End,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Flow::End;
            }
            KeyCode::Tab | KeyCode::BackTab => {
                self.focus = match self.focus {
                    Focus::Channels => Focus::Handlers,
                    Focus::Handlers => Focus::Channels,
                };
            }
            KeyCode::Right => view.sort_by(1),
            KeyCode::Left => view.sort_by(-1),
            KeyCode::Char('r') => view.is_reversed = !view.is_reversed,
            KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
            KeyCode::PageUp => view.scroll(-page),
            KeyCode::PageDown => view.scroll(page),
            KeyCode::Home => view.first = 0,
            KeyCode::End => view.scroll(isize::MAX),
            _ => {}
        }
        Flow::On
    }

    /// Draw all of it.
    pub fn draw(&mut self, frame: &mut Frame) {
        let heads = self.heads();
        let (channels, handlers) = match &self.now {
            None => (Vec::new(), Vec::new()),
            Some(now) => {
                // What is old has no rate now.
                let before = self.before.as_ref().filter(|_| self.silence.is_none());
                (rates::channels(before, now), rates::handlers(before, now))
            }
        };
        let height = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let head = height(heads.len());
        let left = frame.area().height.saturating_sub(head + 1);
        // Borders and the head of a table are three lines.
        let below = height(handlers.len() + 3).min(left / 2);
        let rows = [head, left - below, below, 1].map(Constraint::Length);
        let [top, middle, bottom, foot] = Layout::vertical(rows).areas(frame.area());
        frame.render_widget(Paragraph::new(heads), top);
        let is_focus = |focus| self.focus == focus;
        let (first, second) = (is_focus(Focus::Channels), is_focus(Focus::Handlers));
        table(frame, middle, ("channels", first), &CHANNELS, channels, &mut self.channels);
        table(frame, bottom, ("handlers", second), &HANDLERS, handlers, &mut self.handlers);
        let keys = " q end  Tab channels/handlers  ←→ sort by  r reverse  ↑↓ PgUp PgDn scroll";
        frame.render_widget(Paragraph::new(keys).dim(), foot);
    }

    fn heads(&self) -> Vec<Line<'static>> {
        let Some(now) = &self.now else {
            let reason =
                self.silence.as_deref().map_or(String::new(), |s| format!(": {}", safe(s)));
            return vec![Line::from(format!("waiting for the daemon{reason}"))];
        };
        let state = match (&self.silence, now.state, now.ready) {
            (Some(_), ..) => "waiting".yellow().bold(),
            (None, State::Draining, _) => "draining".yellow().bold(),
            (None, State::Running, true) => "running".green().bold(),
            (None, State::Running, false) => "running, not ready".red().bold(),
        };
        let mut lines = vec![
            Line::from(vec![
                format!("handlerd {}  process {}  ", safe(&now.version), now.pid).into(),
                safe(&now.config).cyan(),
                format!("  for {}  ", span(now.uptime_ms)).into(),
                state,
            ]),
            Line::from(redis(now)),
        ];
        if let Some(reason) = &self.silence {
            let text = format!("! {}; what is shown is old, and it is waited for", safe(reason));
            lines.push(Line::from(text).yellow());
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wrongs = wrongs(now, u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let more = wrongs.len().saturating_sub(MOST_WRONGS);
        let shown = wrongs
            .into_iter()
            .take(MOST_WRONGS)
            .map(|wrong| Line::from(format!("! {wrong}")).red());
        lines.extend(shown);
        if more > 0 {
            lines.push(Line::from(format!("! and {more} more: handlerd status")).red());
        }
        lines
    }
}

/// `redis in ok  eu out AWAY  reconnects 3  reloads 2 (1 failed)`
fn redis(now: &Status) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    for redis in &now.redis {
        let role = match redis.role {
            Role::Source => "in",
            Role::Outputs => "out",
        };
        spans.push(Span::from(format!("{} {role} ", safe(&redis.connection))));
        spans.push(if redis.connected { "ok".green() } else { "AWAY".red().bold() });
        spans.push("  ".into());
    }
    let reload = &now.reload;
    spans.push(
        format!("reconnects {}  reloads {}", now.reconnects, reload.ok + reload.failed).into(),
    );
    if reload.failed > 0 {
        spans.push(format!(" ({} failed)", reload.failed).red());
    }
    spans
}

/// A table, as it is to be seen.
fn table<R>(
    frame: &mut Frame,
    area: Rect,
    (title, has_focus): (&str, bool),
    columns: &[Column<R>],
    mut rows: Vec<R>,
    view: &mut View,
) {
    let cell = columns[view.sort].cell;
    rows.sort_by(|a, b| {
        let order = cell(a).compare(&cell(b));
        if view.is_reversed { order.reverse() } else { order }
    });
    (view.rows, view.room) = (rows.len(), usize::from(area.height.saturating_sub(3)));
    view.scroll(0);
    let last = (view.first + view.room).min(view.rows);
    let seen = match view.rows > view.room {
        true => format!(" {title} {} to {last} of {} ", view.first + 1, view.rows),
        false => format!(" {title} "),
    };
    view.columns = fitting(columns, &rows, area.width.saturating_sub(2));
    let fitting = || view.columns.iter().map(|place| (*place, &columns[*place]));
    let head = fitting().map(|(at, column)| {
        let is_sorted = at == view.sort && has_focus;
        let style = if is_sorted { Style::new().reversed() } else { Style::new().dim() };
        let line = Line::styled(column.head, style);
        let cell = rows.first().map(column.cell);
        let is_text = at == 0 || matches!(cell, Some(Shown::Text(_)));
        Cell::new(if is_text { line } else { line.alignment(Alignment::Right) })
    });
    let shown = rows.iter().skip(view.first).take(view.room);
    let shown = shown.map(|row| Row::new(fitting().map(|(_, column)| (column.cell)(row).cell())));
    let border = if has_focus { Style::new() } else { Style::new().dim() };
    let block = Block::new().borders(Borders::ALL).border_style(border).title(seen);
    let widths = fitting().map(|(at, column)| match at {
        0 => Constraint::Min(column.width),
        _ => Constraint::Length(column.width),
    });
    frame.render_widget(Table::new(shown, widths).header(Row::new(head)).block(block), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::status::tests::example;
    use crate::status::Single;

    fn draw(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn press(screen: &mut Screen, code: KeyCode) -> Flow {
        screen.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn has(lines: &[String], words: &[&str]) -> bool {
        lines.iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    #[test]
    fn it_shows_rates_queues_streams_redis_and_what_is_wrong() {
        let mut screen = Screen::default();
        assert!(has(&draw(&mut screen, 110, 24), &["waiting for the daemon"]));
        let mut now = example();
        screen.take(Ok(now.clone()));
        assert!(has(&draw(&mut screen, 110, 24), &["chat", "…", "4.0 MiB of 16.0 MiB"]));
        now.uptime_ms += 1000;
        now.channels[0].received += 20_000;
        now.handlers[0].calls += 123;
        let slow = crate::status::Bucket { le: Some(1.0), calls: 123 };
        now.handlers[0].seconds.buckets.push(slow);
        screen.take(Ok(now));
        let lines = draw(&mut screen, 110, 24);
        assert!(
            has(&lines, &["process 4711", "/etc/handlerd/config.toml", "not ready"]),
            "{lines:#?}"
        );
        assert!(has(
            &lines,
            &["redis in ok", "eu out AWAY", "reconnects 2", "reloads 2 (1 failed)"]
        ));
        assert!(has(&lines, &["! channel chat: not subscribed"]), "{lines:#?}");
        assert!(has(&lines, &["chat", "20.0k", "567", "4.0 MiB of 16.0 MiB"]), "{lines:#?}");
        assert!(has(&lines, &["orders", "17", "42"]), "{lines:#?}");
        assert!(has(&lines, &["redact", "123", "750 ms", "995 ms", "67"]), "{lines:#?}");
        assert!(!lines.concat().contains('\u{1b}'));
    }

    #[test]
    fn who_leads_and_what_is_ending_is_seen_and_else_there_is_no_such_column() {
        let mut now = example();
        let mut screen = Screen::default();
        screen.take(Ok(now.clone()));
        assert!(!has(&draw(&mut screen, 110, 24), &["STATE"]));
        now.channels[0].single = Some(Single { leads: true, ..Single::default() });
        // Of two with one name each has its own rates.
        let ending =
            crate::status::Channel { ending: true, received: 0, ..now.channels[0].clone() };
        now.channels.push(ending);
        screen.take(Ok(now.clone()));
        now.uptime_ms += 1000;
        now.channels[0].received += 20_000;
        now.channels[2].received += 7_000;
        screen.take(Ok(now));
        let lines = draw(&mut screen, 80, 24);
        assert!(has(&lines, &["CHANNEL", "STATE", "IN/s"]), "{lines:#?}");
        assert!(has(&lines, &["chat", "leads", "20.0k"]), "{lines:#?}");
        assert!(has(&lines, &["chat", "ending", "7000"]), "{lines:#?}");
    }

    #[test]
    fn a_daemon_that_is_away_is_waited_for_and_said_so() {
        let mut screen = Screen::default();
        screen.take(Ok(example()));
        screen.take(Err("it has ended".into()));
        let lines = draw(&mut screen, 110, 24);
        assert!(has(&lines, &["waiting"]) && has(&lines, &["it has ended; what is shown is old"]));
        assert!(has(&lines, &["chat", "…"]), "there is no rate of what is old: {lines:#?}");
        screen.take(Ok(example()));
        assert!(!has(&draw(&mut screen, 110, 24), &["waiting"]));
    }

    #[test]
    fn keys_sort_and_scroll_and_end() {
        let mut now = example();
        let channel = now.channels[1].clone();
        now.channels = (0..50u64)
            .map(|n| {
                let name = format!("channel{n:02}");
                crate::status::Channel { name, dead_letters: n, ..channel.clone() }
            })
            .collect();
        let mut screen = Screen::default();
        screen.take(Ok(now));
        let seen = |screen: &mut Screen| {
            let lines = draw(screen, 110, 30);
            let line = lines
                .iter()
                .find(|line| line.contains("channel") && line.contains("│"))
                .cloned()
                .unwrap_or_default();
            line.split_whitespace().next().unwrap_or_default().trim_start_matches('│').to_owned()
        };
        assert_eq!(seen(&mut screen), "channel00");
        press(&mut screen, KeyCode::Down);
        assert_eq!(seen(&mut screen), "channel01");
        press(&mut screen, KeyCode::End);
        let last = seen(&mut screen);
        assert!(last.as_str() > "channel30", "{last}");
        assert!(has(&draw(&mut screen, 110, 30), &["channels", "to 50 of 50"]));
        press(&mut screen, KeyCode::Home);
        press(&mut screen, KeyCode::Char('r'));
        assert_eq!(seen(&mut screen), "channel49");
        press(&mut screen, KeyCode::Char('r'));
        // By dead letters, the most first.
        for _ in 0..3 {
            press(&mut screen, KeyCode::Left);
        }
        assert_eq!(seen(&mut screen), "channel49");
        press(&mut screen, KeyCode::Tab);
        press(&mut screen, KeyCode::Down);
        assert_eq!(seen(&mut screen), "channel49");
        assert_eq!(press(&mut screen, KeyCode::Char('x')), Flow::On);
        assert_eq!(press(&mut screen, KeyCode::Esc), Flow::End);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.key(interrupt), Flow::End);
    }

    #[test]
    fn a_narrow_terminal_shows_fewer_columns_and_no_cut_ones() {
        let mut screen = Screen::default();
        screen.take(Ok(example()));
        let lines = draw(&mut screen, 80, 24);
        assert!(
            has(&lines, &["CHANNEL", "IN/s", "OUT/s", "LOST", "QUEUE", "DEAD", "LAG"]),
            "{lines:#?}"
        );
        assert!(!has(&lines, &["HANDLED/s"]));
        assert!(has(&lines, &["chat", "567", "4.0 MiB of 16.0 MiB"]), "{lines:#?}");
        // What isn't seen isn't what it is sorted by.
        for _ in 0..20 {
            press(&mut screen, KeyCode::Right);
            assert_ne!(CHANNELS[screen.channels.sort].head, "HANDLED/s");
        }
    }

    #[test]
    fn a_tiny_terminal_is_no_reason_to_fall_over() {
        let mut screen = Screen::default();
        screen.take(Ok(example()));
        for (width, height) in [(1, 1), (3, 2), (20, 5), (40, 10), (300, 3)] {
            draw(&mut screen, width, height);
            press(&mut screen, KeyCode::PageDown);
        }
    }
}
