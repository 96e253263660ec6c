//! How the daemon's process ends.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command},
};

use containerd_api::services::version::v1::version_client::VersionClient;
use futures::stream;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// A daemon in folders of its own.
struct Daemon {
    folder: TempDir,
    process: Child,
    /// What it tells systemd.
    notes: UnixDatagram,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        let notes = UnixDatagram::bind(at("notify")).unwrap();
        std::fs::write(at("config.toml"), "version = 3\n").unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_containerd"))
            .args(["--config".into(), at("config.toml")])
            .args(["--root".into(), at("root")])
            .args(["--state".into(), at("state")])
            .args(["--address".into(), at("a.sock")])
            .env("NOTIFY_SOCKET", at("notify"))
            .spawn()
            .unwrap();
        let daemon = Self { folder, process, notes };
        daemon.expect("READY=1");
        daemon
    }

    fn expect(&self, note: &str) {
        let mut bytes = [0; 64];
        let length = self.notes.recv(&mut bytes).unwrap();
        assert_eq!(std::str::from_utf8(&bytes[..length]).unwrap(), note);
    }

    async fn connect(&self) -> Channel {
        let address = format!("unix://{}", self.folder.path().join("a.sock").display());
        Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    fn status(&mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended, unless the test has failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request whose message never comes, so that a drain has to wait for it.
async fn hang(channel: Channel) -> Result<Response<()>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/containerd.services.version.v1.Version/Version");
    let codec = ProstCodec::<(), ()>::default();
    grpc.client_streaming(Request::new(stream::pending()), path, codec).await
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGTERM)] {
        let mut daemon = Daemon::start();
        let channel = daemon.connect().await;
        let mut version = VersionClient::new(channel.clone());
        // Requests of one connection arrive in the order they were sent.
        tokio::select! {
            biased;
            _ = hang(channel) => panic!("a request without a message was answered"),
            answer = async { version.version(()).await } => drop(answer.unwrap()),
        }
        daemon.send(first);
        daemon.expect("STOPPING=1");
        daemon.send(second);
        assert_eq!(daemon.status(), Some(128 + second as i32));
    }
}

#[tokio::test]
async fn a_drain_ends_well() {
    let mut daemon = Daemon::start();
    daemon.send(Signal::SIGTERM);
    daemon.expect("STOPPING=1");
    assert_eq!(daemon.status(), Some(0));
    assert!(!daemon.folder.path().join("a.sock").exists());
}
