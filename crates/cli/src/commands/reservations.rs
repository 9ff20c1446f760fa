//! `fetchml reserve`, `fetchml reservations`, `fetchml release`.

use crate::{
    failure::{Exit, Failure},
    quantity,
    session::{ServerFlags, Session, is_part},
    terminal,
};
use clap::Args;
use comfy_table::{Cell, Table};
use fetchml_api::{CreateReservationRequest, Reservation, ReservationId, limits};
use std::path::Path;

/// Set GPUs aside for a task to come
///
/// What is free is held at once, the rest is collected as it becomes free, for at most a day. From when all is held it
/// waits for its task (`fetchml submit --reservation ID`), which then keeps it until it ends.
#[derive(Args, Debug)]
#[command(
    before_long_help = "Examples:\n  fetchml reserve --gpu 4 --for 2h\n  fetchml reserve --gpu 8 --nodes 2 --gpu-type H100\n  \
        fetchml submit --reservation ID train.py      takes all of it"
)]
pub(crate) struct Reserve {
    /// GPUs on each node
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..=limits::GPU_MAX))]
    gpu: i32,
    /// A word of the GPUs' name, such as H100 [default: any]
    #[arg(long, value_name = "NAME")]
    gpu_type: Option<String>,
    /// Nodes, each on a worker of its own [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..=limits::NODE_COUNT_MAX))]
    nodes: Option<i32>,
    /// How long it waits for its task once all GPUs are held, to the minute (30m, 2h, 1d) [default: 30m]
    #[arg(long = "for", value_name = "TIME", value_parser = quantity::parse_minutes)]
    waits: Option<i32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Reserve {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let request = CreateReservationRequest {
            gpu_count: self.gpu,
            gpu_type: self.gpu_type,
            node_count: self.nodes,
            expires_minutes: self.waits,
        };
        let made = self.server.session(config)?.client.reserve(&request).await?;
        if self.json {
            terminal::print_json(&made)?;
            return Ok(Exit::Success);
        }
        terminal::print(&made.id.to_string())?;
        terminal::say(&held(&made));
        terminal::say_hint(&format!("`fetchml submit --reservation {} ...` runs a task on them", made.id));
        Ok(Exit::Success)
    }
}

/// List reservations that are active or claimed
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml reservations")]
pub(crate) struct Reservations {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Reservations {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let reservations = self.server.session(config)?.client.reservations().await?;
        if self.json {
            terminal::print_json(&reservations)?;
        } else {
            terminal::print_table(&table(&reservations))?;
        }
        Ok(Exit::Success)
    }
}

/// Give a reservation up: its GPUs are everybody's at once
#[derive(Args, Debug)]
#[command(before_long_help = "Example:\n  fetchml release 0199c0de")]
pub(crate) struct Release {
    /// Its id, or the beginning or end of it
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlags,
}

impl Release {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<Exit> {
        let session = self.server.session(config)?;
        let id = match find(&session, &self.id).await? {
            Found::Live(reservation) => reservation.id,
            Found::Id(id) => id,
        };
        session.client.release(id).await?;
        if self.json {
            terminal::print_json(&serde_json::json!({"id": id, "released": true}))?;
        } else {
            terminal::say(&format!("reservation {id} is released"));
        }
        Ok(Exit::Success)
    }
}

/// A reservation that somebody names.
pub(super) enum Found {
    /// One that is active or claimed.
    Live(Box<Reservation>),
    /// No such one; the server knows whether it was there.
    Id(ReservationId),
}

/// A reservation by its id, or by the beginning or end of it.
pub(super) async fn find(session: &Session, text: &str) -> anyhow::Result<Found> {
    let reservations = session.client.reservations().await?;
    Ok(pick(reservations, &text.to_ascii_lowercase())?)
}

fn pick(reservations: Vec<Reservation>, text: &str) -> Result<Found, Failure> {
    let hint = "`fetchml reservations` lists them";
    if let Ok(id) = text.parse::<ReservationId>() {
        let found = reservations.into_iter().find(|reservation| reservation.id == id);
        return Ok(found.map_or(Found::Id(id), |reservation| Found::Live(Box::new(reservation))));
    }
    let least = crate::limits::SHORT_ID_CHARS;
    if text.len() < least {
        return Err(Failure::usage(format!("{text:?} is too short for the id of a reservation"))
            .hint(format!("give at least {least} characters of its beginning or end; {hint}")));
    }
    let mut matches: Vec<Reservation> =
        reservations.into_iter().filter(|reservation| is_part(text, &reservation.id)).collect();
    match (matches.pop(), matches.len()) {
        (Some(reservation), 0) => Ok(Found::Live(Box::new(reservation))),
        (None, _) => Err(Failure::new(format!("no reservation has an id like {text:?}")).hint(hint)),
        (Some(_), more) => {
            Err(Failure::usage(format!("{} reservations have an id like {text:?}", more + 1)).hint(hint))
        }
    }
}

/// How much of it is held, in a sentence.
fn held(reservation: &Reservation) -> String {
    let all = i64::from(reservation.gpu_count) * i64::from(reservation.node_count);
    match reservation.expires_at {
        Some(at) => format!("all {all} GPUs are held; without a task it expires at {}", quantity::show_time(at)),
        None => {
            format!("{} of {all} GPUs are held; the others are collected as they become free", reservation.gpus_held)
        }
    }
}

fn table(reservations: &[Reservation]) -> Table {
    let mut table = terminal::table(["ID", "USER", "GPUS", "TYPE", "NODES", "HELD", "STATUS", "EXPIRES", "TASK"]);
    for reservation in reservations {
        let all = i64::from(reservation.gpu_count) * i64::from(reservation.node_count);
        let expires = match (reservation.task_id, reservation.expires_at) {
            (Some(_), _) => "with its task".to_owned(),
            (None, Some(at)) => quantity::show_time(at),
            (None, None) => format!("{} min after all are held", reservation.expires_minutes),
        };
        table.add_row(vec![
            Cell::new(reservation.id),
            Cell::new(terminal::plain(&reservation.user_id)),
            terminal::number(reservation.gpu_count),
            Cell::new(reservation.gpu_type.as_deref().map_or_else(|| "-".to_owned(), terminal::plain)),
            terminal::number(reservation.node_count),
            Cell::new(format!("{} of {all}", reservation.gpus_held)),
            Cell::new(reservation.status.as_str()),
            Cell::new(expires),
            Cell::new(reservation.task_id.map_or_else(|| "-".to_owned(), |task| task.to_string())),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use fetchml_api::{Micros, ReservationStatus};

    fn reservation(n: u32) -> Reservation {
        Reservation {
            id: format!("0199c0de-0000-7000-8000-{n:012}").parse().unwrap(),
            user_id: "ada".into(),
            gpu_count: 4,
            gpu_type: None,
            node_count: 2,
            gpus_held: 3,
            expires_minutes: 30,
            expires_at: None,
            created_at: Micros(0),
            task_id: None,
            status: ReservationStatus::Active,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn one_is_found_by_a_part_of_its_id_that_only_it_has() {
        let all = || vec![reservation(1), reservation(2)];
        let id = |found: Found| match found {
            Found::Live(reservation) => (reservation.id, true),
            Found::Id(id) => (id, false),
        };
        assert_eq!(id(pick(all(), "000000000002").unwrap()), (reservation(2).id, true));
        assert_eq!(id(pick(all(), &reservation(1).id.to_string()).unwrap()), (reservation(1).id, true));
        assert_eq!(id(pick(all(), &reservation(9).id.to_string()).unwrap()), (reservation(9).id, false));
        assert!(pick(all(), "0199c0de").is_err_and(|failure| failure.to_string().contains("2 reservations")));
        assert!(pick(all(), "ffffffff").is_err());
        assert!(pick(all(), "2").is_err_and(|failure| failure.to_string().contains("too short")));
    }

    #[test]
    fn what_is_held_is_said_and_when_it_expires() {
        assert_eq!(held(&reservation(1)), "3 of 8 GPUs are held; the others are collected as they become free");
        let full = Reservation { gpus_held: 8, expires_at: Some(Micros(0)), ..reservation(1) };
        assert!(held(&full).starts_with("all 8 GPUs are held; without a task it expires at "));
        let text = terminal::table_text(&table(&[reservation(1)]));
        assert!(text.contains("3 of 8") && text.contains("30 min after all are held"), "{text}");
    }
}
