//! What can be asked, as data.

/// A method of a service, as its `.proto` file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Full name of its service, such as `containerd.services.tasks.v1.Tasks`.
    pub service: &'static str,
    /// Its own name, such as `Create`.
    pub name: &'static str,
    /// A request is any number of messages.
    pub client_streams: bool,
    /// An answer is any number of messages.
    pub server_streams: bool,
}

/// All methods of all services.
pub const METHODS: &[Method] = &include!(concat!(env!("OUT_DIR"), "/methods.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_there() {
        let find = |service: &str, name: &str| {
            let found = METHODS.iter().find(|m| m.service == service && m.name == name).unwrap();
            (found.client_streams, found.server_streams)
        };
        assert_eq!(find("containerd.services.tasks.v1.Tasks", "Create"), (false, false));
        assert_eq!(find("containerd.services.content.v1.Content", "Read"), (false, true));
        assert_eq!(find("containerd.services.content.v1.Content", "Write"), (true, true));
        assert_eq!(find("types.API", "GetStats"), (false, true));
        assert_eq!(find("grpc.health.v1.Health", "Check"), (false, false));
    }
}
