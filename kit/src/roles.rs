//! Who may call what: one table of all calls. A near call is a peer's.

/// What a caller may do. Each row of the table names the least that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Hand in mail.
    Inject,
    /// Look.
    Read,
    /// Change what happens to mail.
    Operate,
    /// Everything but what services do among themselves.
    Admin,
    /// A Godwit service: may do everything.
    Peer,
}

impl Role {
    /// The role of that name, as in configuration and certificates.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Inject, Self::Read, Self::Operate, Self::Admin, Self::Peer].into_iter().find(|role| role.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Inject => "inject",
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Admin => "admin",
            Role::Peer => "peer",
        }
    }

    /// Whether a caller with this role may do what needs `needed`. Injecting is a right of its own: those who only read
    /// may not, those who only inject may not read.
    pub fn may(self, needed: Role) -> bool {
        match self {
            Role::Peer => true,
            Role::Admin => needed != Role::Peer,
            Role::Operate => matches!(needed, Role::Operate | Role::Read),
            Role::Read => needed == Role::Read,
            Role::Inject => needed == Role::Inject,
        }
    }
}

/// The calls of one service and the role that each needs.
struct Service {
    name: &'static str,
    calls: &'static [(&'static str, Role)],
}

/// Whoever reaches the listener may call these.
const OPEN: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The role that a call of this path needs; `None` where everyone may. What the table does not know, a newer peer behind a
/// gateway may: it is for peers.
pub fn needed(path: &str) -> Option<Role> {
    let open = |service: &str| OPEN.contains(&service);
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    (!service.is_some_and(open)).then(|| listed(path).unwrap_or(Role::Peer))
}

/// The row of a call, by its path (`/package.Service/Method`).
pub fn listed(path: &str) -> Option<Role> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let service = TABLE.iter().find(|row| row.name == service)?;
    service.calls.iter().find(|(name, _)| *name == method).map(|(_, role)| *role)
}

use Role::{Admin, Inject, Operate, Peer, Read};

const TABLE: &[Service] = &[
    Service {
        name: "godwit.queue.v1.QueueService",
        calls: &[
            ("Enqueue", Peer),
            ("PutBody", Peer),
            ("ReadBody", Peer),
            ("Withdraw", Peer),
            ("WatchDue", Peer),
            ("Route", Peer),
            // Hands out mail.
            ("Lease", Peer),
            ("Renew", Peer),
            ("Release", Peer),
            ("Settle", Peer),
            ("SettleLane", Peer),
            ("ReportLane", Peer),
            ("Record", Peer),
            ("WatchEvents", Read),
        ],
    },
    Service {
        name: "godwit.queue.v1.QueueAdminService",
        calls: &[
            ("Summarise", Read),
            ("ListMessages", Read),
            // Shows bodies.
            ("Inspect", Admin),
            ("Search", Admin),
            ("Suspend", Operate),
            ("Resume", Operate),
            ("ListSuspensions", Read),
            ("Bounce", Operate),
            ("CancelBounce", Operate),
            ("ListBounces", Read),
            ("Expire", Operate),
            ("Flush", Operate),
            ("Rebind", Operate),
            ("Transfer", Admin),
            ("Adopt", Peer),
            ("Drain", Admin),
            ("Sinks", Read),
            ("ListSuppressions", Read),
            ("PutSuppressions", Operate),
            ("DeleteSuppressions", Operate),
            ("CheckSpool", Admin),
        ],
    },
    Service {
        name: "godwit.ingress.v1.IngressService",
        calls: &[
            ("Inject", Inject),
            ("ListSessions", Read),
            ("KillSession", Operate),
            // Shows addresses.
            ("TraceSessions", Admin),
        ],
    },
    Service {
        name: "godwit.egress.v1.EgressService",
        calls: &[
            ("ListSites", Read),
            ("ListConnections", Read),
            ("AbortConnection", Operate),
            ("ResolvePath", Read),
            ("TraceSessions", Admin),
            ("SuspendSite", Operate),
            ("SuspendSource", Operate),
            ("Resume", Operate),
        ],
    },
    Service {
        name: "godwit.tsa.v1.TsaService",
        calls: &[
            ("Observe", Peer),
            ("Watch", Read),
            ("List", Read),
            ("Explain", Read),
            ("Cancel", Operate),
            ("Add", Operate),
            ("Try", Read),
            ("Status", Read),
        ],
    },
    Service {
        name: "godwit.throttle.v1.ThrottleService",
        calls: &[
            ("Acquire", Peer),
            ("Refund", Peer),
            ("AcquireSlots", Peer),
            ("Heartbeat", Peer),
            ("ReleaseSlots", Peer),
            ("List", Read),
            ("Inspect", Read),
            ("Reset", Operate),
        ],
    },
    Service {
        name: "godwit.proxy.v1.ProxyService",
        calls: &[
            ("ListSources", Read),
            ("WatchSources", Read),
            ("Status", Read),
            ("ListSessions", Read),
            ("Drain", Operate),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// A call without a row could be made by anyone.
    #[test]
    fn every_call_of_every_contract_has_a_role() {
        let set = prost_types::FileDescriptorSet::decode(godwit_proto::DESCRIPTORS).unwrap();
        let mut count = 0;
        for file in set.file.iter().filter(|file| file.package() != "godwit.policy.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert!(listed(&path).is_some(), "{path} has no role");
                    count += 1;
                }
            }
        }
        assert_eq!(count, TABLE.iter().map(|row| row.calls.len()).sum::<usize>(), "a row without a call");
    }

    #[test]
    fn what_no_row_names_is_for_peers() {
        for (path, role) in [
            ("/godwit.queue.v1.QueueService/Lease", Some(Peer)),
            ("/godwit.tsa.v1.TsaService/List", Some(Read)),
            ("/godwit.tsa.v1.TsaService/List/", Some(Peer)),
            ("/godwit.tsa.v1.TsaService/%4Cist", Some(Peer)),
            ("/godwit.tsa.v1.TsaService/Later", Some(Peer)),
            ("//godwit.tsa.v1.TsaService/List", Some(Peer)),
            ("/", Some(Peer)),
            ("/grpc.health.v1.Health/Check", None),
            ("/grpc.health.v1.Healthier/Check", Some(Peer)),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None),
        ] {
            assert_eq!(needed(path), role, "{path}");
        }
    }

    #[test]
    fn roles_reach_as_far_as_they_say() {
        for (role, may) in [(Inject, 1), (Read, 1), (Operate, 2), (Admin, 4), (Peer, 5)] {
            let reach = [Inject, Read, Operate, Admin, Peer].into_iter().filter(|needed| role.may(*needed)).count();
            assert_eq!(reach, may, "{role:?}");
        }
    }
}
