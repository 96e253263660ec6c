//! Runs a program in a container and prints what it prints:
//!
//! ```sh
//! cargo run -p containerd-client --example run -- \
//!     /run/containerd/containerd.sock /srv/busybox /bin/echo hello
//! ```

use std::{env, error::Error, process::ExitCode};

use containerd_client::{Client, Container, Exit, Fifos, NewContainer, NewTask, SpecBuilder};
use tokio::io::{copy, stderr, stdout};

const ID: &str = "example";

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [socket, rootfs, command @ ..] = &args[..] else {
        return Err("usage: run SOCKET ROOTFS COMMAND [ARG]...".into());
    };
    let namespace = Client::connect(socket).await?.namespace("default");
    let spec = SpecBuilder::new(namespace.name(), ID).rootfs(rootfs).args(command).build()?;
    let container = namespace.create_container(NewContainer::new(ID).spec(&spec)?).await?;
    let exit = run(&container).await;
    container.delete().await?;
    Ok(ExitCode::from((exit?.status & 0xff) as u8))
}

async fn run(container: &Container) -> Result<Exit, Box<dyn Error>> {
    let fifos = Fifos::create(env::temp_dir(), ID, false)?;
    let streams = fifos.open()?;
    let task = container.create_task(NewTask::new(fifos.stdio().clone())).await?;
    task.start().await?;

    let (mut out, mut err) =
        (streams.stdout.ok_or("no stdout")?, streams.stderr.ok_or("no stderr")?);
    let (mut to_out, mut to_err) = (stdout(), stderr());
    let (out, err, exit) =
        tokio::join!(copy(&mut out, &mut to_out), copy(&mut err, &mut to_err), async {
            let exit = task.wait().await?;
            task.delete().await?;
            Ok::<_, containerd_client::Error>(exit)
        });
    out?;
    err?;
    Ok(exit?)
}
