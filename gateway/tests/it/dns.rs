//! A DNS server on loopback that answers from a table.

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinEncodable};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What a domain has.
#[derive(Debug, Clone, Default)]
pub struct Domain {
    pub mx: Vec<(u16, &'static str)>,
    pub a: Vec<Ipv4Addr>,
    /// Answer SERVFAIL.
    pub broken: bool,
}

/// A running server. It ends when dropped. Names that are not in its table do not exist.
pub struct Dns {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dns {
    pub async fn start(table: impl IntoIterator<Item = (&'static str, Domain)>) -> Self {
        let table: Arc<HashMap<String, Domain>> =
            Arc::new(table.into_iter().map(|(name, domain)| (format!("{name}."), domain)).collect());
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                if let Ok(query) = Message::from_bytes(&packet[..length]) {
                    let answer = answer(&table, &query).to_bytes().unwrap();
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { address, task }
    }
}

fn answer(table: &HashMap<String, Domain>, query: &Message) -> Message {
    let mut answer = Message::new(query.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let Some(question) = query.queries.first() else { return answer };
    answer.add_query(question.clone());
    let name = question.name();
    match table.get(&name.to_string().to_lowercase()) {
        None => answer.metadata.response_code = ResponseCode::NXDomain,
        Some(domain) if domain.broken => answer.metadata.response_code = ResponseCode::ServFail,
        Some(domain) => {
            for data in records(domain, question.query_type()) {
                answer.add_answer(Record::from_rdata(name.clone(), 60, data));
            }
        }
    }
    answer
}

fn records(domain: &Domain, kind: RecordType) -> Vec<RData> {
    match kind {
        RecordType::MX => {
            let mx = domain.mx.iter();
            mx.map(|(preference, host)| RData::MX(MX::new(*preference, Name::from_ascii(host).unwrap()))).collect()
        }
        RecordType::A => domain.a.iter().map(|address| RData::A(A(*address))).collect(),
        _ => Vec::new(),
    }
}
