//! The connections between agents and server: messages keep their order on each, take their time, and are
//! lost with it.

use crate::{
    Fault, MS, SECOND, Time,
    host::HostId,
    wire::{Down, Up},
    world::{Happening, World},
};

impl World {
    /// Whoever had a connection to the server has it no more.
    pub(crate) fn links_reset(&mut self) {
        self.first_session = self.next_session;
    }

    pub(crate) fn link_open(&mut self, h: HostId) -> Option<u64> {
        let link = &mut self.links[h];
        let reachable = self.server.life.is_some() && link.cut_up_until.max(link.cut_down_until) <= self.now;
        if !reachable {
            return None;
        }
        let session = self.next_session;
        self.next_session += 1;
        link.session = Some(session);
        Some(session)
    }

    /// The worker's end is closed; the server's end notices sooner or later.
    pub(crate) fn link_close(&mut self, h: HostId) {
        let Some(session) = self.links[h].session.take() else { return };
        if self.draw(fastrand::Rng::bool) {
            self.lost_sessions.insert(session);
        }
        self.after(MS..3 * SECOND, Happening::Closed { session });
    }

    pub(crate) fn send_up(&mut self, h: HostId, up: Up) {
        let Some(session) = self.links[h].session else { return };
        let delay = self.delay(h);
        let link = &mut self.links[h];
        let cut = if link.cut_up_until > self.now { link.cut_up_until + 200 * MS } else { 0 };
        link.up_at = (self.now + delay).max(cut).max(link.up_at);
        let at = link.up_at;
        if matches!(up, Up::Reports(_)) && self.repeats() {
            self.at(at, Happening::Up { host: h, session, up: up.clone() });
        }
        self.at(at, Happening::Up { host: h, session, up });
    }

    pub(crate) fn send_down(&mut self, h: HostId, session: u64, down: Down) {
        let delay = self.delay(h);
        let link = &mut self.links[h];
        let cut = if link.cut_down_until > self.now { link.cut_down_until + 200 * MS } else { 0 };
        link.down_at = (self.now + delay).max(cut).max(link.down_at);
        let at = link.down_at;
        if matches!(down, Down::Order(_)) && self.repeats() {
            self.at(at, Happening::Down { host: h, session, down: down.clone() });
        }
        self.at(at, Happening::Down { host: h, session, down });
    }

    pub(crate) fn delay(&mut self, h: HostId) -> Time {
        let slow = self.links[h].delay_until > self.now;
        self.timing.i64(if slow { SECOND..13 * SECOND } else { MS / 5..30 * MS })
    }

    pub(crate) fn repeats(&mut self) -> bool {
        let repeats = self.plan.faults.contains(&Fault::Repeat) && !self.faults_over && self.timing.u32(..12) == 0;
        if repeats {
            self.count(Fault::Repeat);
        }
        repeats
    }
}
