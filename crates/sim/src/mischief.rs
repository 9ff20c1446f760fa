//! How faults strike, and how they end.

use crate::{
    Fault, MINUTE, MS, SECOND, Time, Violation,
    host::HostId,
    world::{Happening, World},
};
use fetchml_api::AttemptId;

impl World {
    pub(crate) fn count(&mut self, fault: Fault) {
        *self.counts.entry(fault).or_default() += 1;
    }

    pub(crate) fn victim(&mut self, fault: Fault) -> Option<HostId> {
        let able: Vec<HostId> = self.hosts.iter().filter(|host| host.can_suffer(fault)).map(|host| host.id).collect();
        self.mischief.choice(able)
    }

    pub(crate) fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.faults_over {
            return Ok(());
        }
        let now = self.now;
        // Mostly short, at times longer than every lease.
        let long = self.mischief.u32(..4) == 0;
        let span = if long { self.mischief.i64(SECOND..5 * MINUTE) } else { self.mischief.i64(MS..20 * SECOND) };
        let until = now + span;
        match fault {
            Fault::ServerCrash => {
                if self.server.life.is_some() {
                    self.server_kill()?;
                    self.at(until, Happening::ServerStart);
                    self.count(fault);
                }
            }
            Fault::ServerPause => {
                if self.server.life.is_some() && self.server.paused_until.is_none() {
                    self.server.paused_until = Some(until);
                    self.at(until, Happening::ServerResumes);
                    self.count(fault);
                }
            }
            Fault::ClockJump => {
                self.server.wall_offset += self.mischief.i64(-7_200 * SECOND..7_200 * SECOND);
                self.count(fault);
            }
            Fault::DatabaseBusy => {
                self.server.busy_until = until;
                self.count(fault);
            }
            Fault::DatabaseSlow => {
                self.server.slow_until = until;
                self.count(fault);
            }
            // Counted when a commit meets it.
            Fault::CommitUnknown => self.server.unknown_next = true,
            Fault::RestoredBackup => self.restore_backup(until)?,
            _ => self.strike_host(fault, until),
        }
        self.schedule_fault(fault);
        Ok(())
    }

    pub(crate) fn strike_host(&mut self, fault: Fault, until: Time) {
        let Some(h) = self.victim(fault) else { return };
        let now = self.now;
        match fault {
            Fault::AgentCrash => {
                self.agent_kill(h);
                self.at(until, Happening::AgentStart { host: h });
                self.count(fault);
            }
            Fault::AgentPause => self.agent_pause(h, until),
            Fault::ShimCrash => {
                let attempts: Vec<AttemptId> = self.hosts[h].shims.keys().copied().collect();
                if let Some(attempt) =
                    self.mischief.choice(attempts).filter(|attempt| self.hosts[h].shims[attempt].runs)
                {
                    self.shim_kill(h, attempt);
                    self.count(fault);
                }
            }
            Fault::HostCrash => {
                let kept = self.mischief.f64();
                let host = &mut self.hosts[h];
                let ran = host.shims.iter().filter(|(_, shim)| shim.runs).map(|(attempt, _)| *attempt);
                self.unseen.extend(ran);
                host.lose_power(now, kept);
                self.link_close(h);
                self.at(until, Happening::HostStart { host: h });
                self.count(fault);
            }
            Fault::HostSuspend => {
                let host = &mut self.hosts[h];
                host.asleep_until = Some(until);
                host.slept += until - now;
                let boot = host.boot;
                self.at(until, Happening::HostWakes { host: h, boot });
                self.count(fault);
            }
            Fault::HostDiskFull => {
                self.hosts[h].disk_full_until = until;
                self.count(fault);
            }
            Fault::ClonedWorker => self.clone_worker(h, until),
            Fault::LinkBreak => {
                if self.links[h].session.is_some() {
                    self.link_lost(h);
                    self.count(fault);
                }
            }
            Fault::CutUp => {
                self.links[h].cut_up_until = until;
                self.count(fault);
            }
            Fault::CutDown => {
                self.links[h].cut_down_until = until;
                self.count(fault);
            }
            Fault::Delay => {
                self.links[h].delay_until = until;
                self.count(fault);
            }
            _ => unreachable!("{fault} is not of a machine"),
        }
    }

    pub(crate) fn host_start(&mut self, h: HostId) {
        let now = self.now;
        let host = &mut self.hosts[h];
        if host.on {
            return;
        }
        (host.on, host.boot, host.booted_at, host.slept) = (true, host.boot + 1, now, 0);
        self.after(SECOND..20 * SECOND, Happening::AgentStart { host: h });
    }

    pub(crate) fn host_wakes(&mut self, h: HostId, boot: u64) {
        let now = self.now;
        let host = &mut self.hosts[h];
        if host.boot == boot && host.asleep_until.is_some_and(|until| until <= now) {
            (host.asleep_until, host.woke_at) = (None, now);
            self.at(now + crate::check::AFTER_STANDSTILL + MS, Happening::HostAwake { host: h, boot });
        }
    }

    /// Somebody copies a data directory and starts an agent on the copy.
    pub(crate) fn clone_worker(&mut self, h: HostId, until: Time) {
        let of = &self.hosts[h];
        let (worker, cores, gpus, disk) =
            (of.worker, of.capabilities.cpu_cores, of.capabilities.gpu_count, of.disk.clone());
        let clone = self.add_host(worker, cores, gpus);
        let host = &mut self.hosts[clone];
        host.disk = disk;
        (host.clone_of, host.boot, host.booted_at) = (Some(h), 1_000_000, self.now);
        self.excused.extend([h, clone]);
        self.at(self.now, Happening::AgentStart { host: clone });
        self.at(until, Happening::CloneGone { host: clone });
        self.count(Fault::ClonedWorker);
    }

    pub(crate) fn clone_gone(&mut self, h: HostId) {
        self.hosts[h].lose_power(self.now, 1.0);
        self.hosts[h].disk = crate::host::Disk::default();
        self.link_close(h);
    }

    pub(crate) fn restore_backup(&mut self, until: Time) -> Result<(), Violation> {
        let Some(backup) = self.server.backup.clone() else { return Ok(()) };
        self.server_kill()?;
        // What was acknowledged after the copy was made is gone, and that is no fault of the server.
        self.acknowledged.retain(|id| backup.tasks.contains_key(id));
        self.reserved.retain(|id| backup.reservations.contains_key(id));
        self.server.database = backup;
        self.restored_backup = true;
        self.at(until, Happening::ServerStart);
        self.count(Fault::RestoredBackup);
        Ok(())
    }

    /// Whether two copies may run here for a reason that no fence can help.
    pub(crate) fn is_excused(&self, h: HostId) -> bool {
        self.restored_backup || self.excused.contains(&h)
    }

    /// Nothing new strikes, and everything that stands still goes on.
    pub(crate) fn end_faults(&mut self) {
        let now = self.now;
        self.faults_over = true;
        if self.plan.faults.contains(&Fault::PoisonTask) {
            self.count(Fault::PoisonTask);
        }
        (self.server.busy_until, self.server.slow_until, self.server.unknown_next) = (0, 0, false);
        for link in &mut self.links {
            (link.cut_up_until, link.cut_down_until, link.delay_until) = (0, 0, 0);
        }
        for h in 0..self.hosts.len() {
            self.hosts[h].disk_full_until = 0;
            if self.hosts[h].clone_of.is_some() {
                self.clone_gone(h);
            }
        }
        self.at(now + MINUTE, Happening::CancelEndless);
    }
}
