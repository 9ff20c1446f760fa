//! A network namespace for a worker, joined to ours by one cable on which packets can be dropped: real TCP on a bad
//! network. Needs root, by itself or by sudo without a password.

use rustix::process::{getegid, geteuid};
use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

/// Which way packets go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// From the worker to the server.
    Up,
    /// From the server to the worker.
    Down,
}

/// The namespace; it ends with this.
pub(crate) struct Namespace {
    name: String,
    inside: String,
    /// Address of our end of the cable.
    server: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let pid = std::process::id();
        // Of the network that RFC 2544 sets aside for tests, four addresses for each process.
        let base = (pid % (1 << 15)) * 4;
        let address = |host: u32| {
            let [_, b, c, d] = (base + host).to_be_bytes();
            format!("198.{}.{c}.{d}", 18 + b)
        };
        let (outside, inside) = (format!("fml{pid}a"), format!("fml{pid}b"));
        let namespace = Self { name: format!("fml{pid}"), inside, server: address(1) };
        let Self { name, inside, server } = &namespace;
        root(&["ip", "netns", "add", name], "");
        root(&["ip", "link", "add", &outside, "type", "veth", "peer", "name", inside, "netns", name], "");
        root(&["ip", "address", "add", &format!("{server}/30"), "dev", &outside], "");
        root(&["ip", "link", "set", &outside, "up"], "");
        namespace.run(&["ip", "address", "add", &format!("{}/30", address(2)), "dev", inside], "");
        namespace.run(&["ip", "link", "set", inside, "up"], "");
        namespace.run(&["ip", "link", "set", "lo", "up"], "");
        namespace
    }

    /// Where a server must listen to be reached from inside.
    pub(crate) fn server_ip(&self) -> &str {
        &self.server
    }

    /// What starts a program inside as the user who runs the tests: its words come behind these.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let mut words: Vec<String> = enter(&self.name).map(ToOwned::to_owned).into();
        if !geteuid().is_root() {
            let (user, group) = (geteuid().as_raw().to_string(), getegid().as_raw().to_string());
            let drop = ["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"];
            words = ["sudo", "-n"].map(ToOwned::to_owned).into_iter().chain(words).collect();
            words.extend(drop.map(ToOwned::to_owned));
        }
        words
    }

    /// Drops every packet that goes this way.
    pub(crate) fn cut(&self, way: Way) {
        self.drop_packets(&[way], "");
    }

    /// Drops so many of a hundred packets, at random, both ways.
    pub(crate) fn lose(&self, percent: u32) {
        self.drop_packets(&[Way::Up, Way::Down], &format!("numgen random mod 100 < {percent}"));
    }

    /// Drops nothing any more.
    pub(crate) fn heal(&self) {
        self.run(&["nft", "flush", "ruleset"], "");
    }

    fn drop_packets(&self, ways: &[Way], which: &str) {
        let mut rules = String::from("flush ruleset\n");
        for way in ways {
            let (hook, side) = match way {
                Way::Up => ("output", "oifname"),
                Way::Down => ("input", "iifname"),
            };
            let rule = format!("type filter hook {hook} priority 0; {side} {} {which} drop;", self.inside);
            let _ = writeln!(rules, "table inet {hook} {{ chain weather {{ {rule} }}; }}");
        }
        self.run(&["nft", "-f", "-"], &rules);
    }

    fn run(&self, words: &[&str], input: &str) {
        root(&[&enter(&self.name)[..], words].concat(), input);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable goes with it.
        let _ = command(&["ip", "netns", "delete", &self.name]).status();
    }
}

fn enter(name: &str) -> [&str; 4] {
    ["ip", "netns", "exec", name]
}

fn command(words: &[&str]) -> Command {
    let words = if geteuid().is_root() { words.to_vec() } else { [&["sudo", "-n"], words].concat() };
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn root(words: &[&str], input: &str) {
    let mut child = command(words).stdin(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{words:?}: {e}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let status = child.wait().expect("it can be waited for");
    assert!(status.success(), "{words:?}: {status}; network namespaces need root, or sudo without a password");
}
