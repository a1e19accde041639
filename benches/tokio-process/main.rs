//! `tokio::process`, measured by benches/spine/others.rs: `tokio-process IDLE PROGRAM` starts so many sleepers and waits for
//! each, then for each line of its input starts the program with these arguments and prints when it knew of its end.

use std::io::{self, Write};
use std::process::Stdio;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::process::Command;

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut arguments = std::env::args().skip(1);
    let (Some(idle), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("usage: tokio-process IDLE PROGRAM"));
    };
    let idle: usize = idle.parse().map_err(io::Error::other)?;
    // A pidfd each.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    runtime.block_on(async {
        for _ in 0..idle {
            let mut sleeper = Command::new("/bin/sleep").arg("100000").kill_on_drop(true).spawn()?;
            tokio::spawn(async move { sleeper.wait().await });
        }
        // From here on a program is started as soon as it is named.
        println!("ready");
        io::stdout().flush()?;
        for line in io::stdin().lines() {
            let mut child =
                Command::new(&program).args(line?.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
            child.wait().await?;
            let now = clock_gettime(ClockId::Monotonic);
            println!("{}", now.tv_sec * 1_000_000_000 + now.tv_nsec);
            io::stdout().flush()?;
        }
        Ok(())
    })
}
