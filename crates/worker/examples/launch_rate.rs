//! Measures how many processes a second the fork helper and its shims start and record, beside a bare
//! spawn loop on the same machine: `cargo run --release --example launch_rate [COUNT] [AT_ONCE]`.
//! The helper's binary must have been built in the same profile.

use fetchml_api::AttemptId;
use fetchml_worker::shim::{Helper, LaunchSpec};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let count = args.next().unwrap_or(2_000);
    let at_once = args.next().unwrap_or(2);
    let example = std::env::current_exe()?;
    let target = example.ancestors().nth(2).expect("an example lies in <target>/examples");
    let helper = Helper::start(&[target.join("fetchml-helper").into()]).await?;
    let dir = std::env::temp_dir().join(format!("fetchml-launch-rate-{}", std::process::id()));
    for round in 1..=3 {
        let cpu = cpu_ms(&helper).await?;
        let bare = rate(count, bare(count, at_once));
        let bare_cpu = cpu_ms(&helper).await? - cpu;
        let shims = rate(count, shims(&helper, &dir.join(round.to_string()), count, at_once).await?);
        let shims_cpu = cpu_ms(&helper).await? - cpu - bare_cpu;
        let each = |cpu_ms: u64| cpu_ms * 1_000 / count as u64;
        println!(
            "{at_once} at once: bare {bare:.0}/s, {} us CPU each; under shims {shims:.0}/s, {} us CPU each; ratio {:.2}",
            each(bare_cpu),
            each(shims_cpu),
            shims / bare
        );
    }
    std::fs::remove_dir_all(dir)
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// CPU time that this process, the helper and their dead children have used, milliseconds.
async fn cpu_ms(helper: &Helper) -> std::io::Result<u64> {
    const MS_PER_TICK: u64 = 10;
    let mut ticks = 0;
    for pid in [Some(std::process::id()), helper.pid().await].into_iter().flatten() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(") ").expect("the name stands in parentheses");
        // utime, stime, cutime, cstime.
        ticks += fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(ticks * MS_PER_TICK)
}

fn bare(count: usize, at_once: usize) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                for _ in 0..count / at_once {
                    assert!(Command::new("/bin/true").status().expect("true runs").success());
                }
            });
        }
    });
    began.elapsed()
}

async fn shims(helper: &Helper, dir: &Path, count: usize, at_once: usize) -> std::io::Result<Duration> {
    // The directories are the agent's work, and made beforehand.
    for number in 0..count {
        std::fs::create_dir_all(dir.join(number.to_string()))?;
    }
    let began = Instant::now();
    let lanes = (0..at_once).map(|lane| async move {
        for number in (lane..count).step_by(at_once) {
            let spec = LaunchSpec {
                attempt: AttemptId(uuid::Uuid::from_u128(number as u128)),
                dir: dir.join(number.to_string()),
                argv: vec!["/bin/true".into()],
                env: vec![("PATH".into(), "/usr/bin:/bin".into())],
                cwd: "/".into(),
                time_limit_s: None,
                grace_s: 30,
                confinement: None,
                fence: None,
            };
            let exit = helper.launch(spec).await?.wait().await;
            assert!(exit.is_success(), "{exit:?}");
        }
        Ok::<_, std::io::Error>(())
    });
    futures_util::future::try_join_all(lanes).await?;
    Ok(began.elapsed())
}
