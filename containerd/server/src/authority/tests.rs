//! A client written by hand, which names the socket's path as Go clients do.

use containerd_api::services::version::v1::{
    VersionResponse,
    version_server::{Version, VersionServer},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tonic::{Request, Response, Status, transport::Server};

use super::*;

const TYPE_DATA: u8 = 0x0;
const TYPE_RST_STREAM: u8 = 0x3;
const TYPE_SETTINGS: u8 = 0x4;
const END_HEADERS: u8 = 0x4;
const END_STREAM: u8 = 0x1;
/// HPACK's static entry `:status 200`.
const STATUS_200: u8 = 0x88;

struct Fixed;

#[tonic::async_trait]
impl Version for Fixed {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse::default()))
    }
}

/// A connection to a server, on which the client's preface has been sent.
async fn connect() -> DuplexStream {
    let (mut client, server) = duplex(65_536);
    let incoming = tokio_stream::once(Ok::<_, io::Error>(Lenient::new(server)));
    tokio::spawn(
        Server::builder().add_service(VersionServer::new(Fixed)).serve_with_incoming(incoming),
    );
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(TYPE_SETTINGS, 0, 0, &[])).await.unwrap();
    client
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn literal(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend(name);
    out.push(value.len() as u8);
    out.extend(value.bytes());
}

/// A request that puts all its values into the table.
fn first_request(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    literal(&mut block, &[0x44], "/containerd.services.version.v1.Version/Version");
    literal(&mut block, &[0x41], authority);
    literal(&mut block, &[0x5f], "application/grpc");
    literal(&mut block, b"\x40\x02te", "trailers");
    block
}

/// The same request by reference: `te` was the last to enter the table.
const AGAIN: [u8; 6] = [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

/// Sends a request in pieces of so many bytes.
async fn send(client: &mut DuplexStream, stream: u32, flags: u8, headers: &[u8], piece: usize) {
    let mut bytes = frame(TYPE_HEADERS, END_HEADERS | flags, stream, headers);
    // A gRPC message without content.
    bytes.extend(frame(TYPE_DATA, END_STREAM, stream, &[0; 5]));
    for piece in bytes.chunks(piece) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// Type and first payload byte of the first answer on that stream.
async fn answer(client: &mut DuplexStream, stream: u32) -> (u8, u8) {
    loop {
        let mut header = [0; FRAME_HEADER];
        client.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        client.read_exact(&mut payload).await.unwrap();
        if header[5..] == stream.to_be_bytes()
            && matches!(header[3], TYPE_HEADERS | TYPE_RST_STREAM)
        {
            return (header[3], payload[0]);
        }
    }
}

#[tokio::test]
async fn a_path_as_authority_is_answered() {
    for authority in
        ["/run/containerd/containerd.sock", "%2Frun%2Fa.sock", "unix:///a", "localhost"]
    {
        for piece in [1, 7, 65_536] {
            let mut client = connect().await;
            send(&mut client, 1, 0, &first_request(authority), piece).await;
            assert_eq!(answer(&mut client, 1).await, (TYPE_HEADERS, STATUS_200), "{authority}");
            send(&mut client, 3, 0, &AGAIN, piece).await;
            assert_eq!(answer(&mut client, 3).await, (TYPE_HEADERS, STATUS_200), "{authority}");
            // The value is sent again once it has left the client's table.
            send(&mut client, 5, 0, &first_request(authority), piece).await;
            assert_eq!(answer(&mut client, 5).await, (TYPE_HEADERS, STATUS_200), "{authority}");
        }
    }
}

#[tokio::test]
async fn padding_and_priority_are_kept() {
    let mut client = connect().await;
    let mut headers = vec![3, 0, 0, 0, 0, 15];
    headers.extend(first_request("/a"));
    headers.extend([0; 3]);
    send(&mut client, 1, FLAG_PADDED | FLAG_PRIORITY, &headers, 65_536).await;
    assert_eq!(answer(&mut client, 1).await, (TYPE_HEADERS, STATUS_200));
}

/// Shows what this module is for; if it fails, the module can go.
#[tokio::test]
async fn without_it_the_request_is_reset() {
    let (mut client, server) = duplex(65_536);
    let incoming = tokio_stream::once(Ok::<_, io::Error>(server));
    tokio::spawn(
        Server::builder().add_service(VersionServer::new(Fixed)).serve_with_incoming(incoming),
    );
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.write_all(&frame(TYPE_SETTINGS, 0, 0, &[])).await.unwrap();
    send(&mut client, 1, 0, &first_request("/run/a.sock"), 65_536).await;
    assert_eq!(answer(&mut client, 1).await.0, TYPE_RST_STREAM);
}

#[test]
fn broken_frames_pass_as_they_are() {
    for payload in [&[][..], &[0xff; 3]] {
        assert_eq!(mend(&frame(TYPE_HEADERS, FLAG_PADDED, 1, payload)), None);
        assert_eq!(mend(&frame(TYPE_HEADERS, FLAG_PRIORITY, 1, payload)), None);
    }
}
