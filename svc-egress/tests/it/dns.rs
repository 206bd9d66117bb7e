//! A DNS server that is a table (RFC 1035), over UDP on a loopback port of its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const A: u16 = 1;
const CNAME: u16 = 5;
const MX: u16 = 15;
const AAAA: u16 = 28;

#[derive(Clone)]
pub enum Answer {
    Mx(Vec<(u16, &'static str)>),
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// Said whatever was asked, and nothing of its target.
    Cname(&'static str),
    NxDomain,
    ServFail,
}

/// What is not in the table exists and has no records. Runs until dropped.
pub struct Dns {
    pub at: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Dns {
    pub async fn start(table: &[(&'static str, Answer)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let mut answers: HashMap<String, Vec<Answer>> = HashMap::new();
        for (name, answer) in table {
            answers.entry((*name).to_string()).or_default().push(answer.clone());
        }
        let serving = tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((bytes, from)) = socket.recv_from(&mut query).await {
                let _ = socket.send_to(&reply(&query[..bytes], &answers), from).await;
            }
        });
        Self { at, serving }
    }
}

fn reply(query: &[u8], table: &HashMap<String, Vec<Answer>>) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    let mut records = Vec::new();
    let mut code = 0;
    for answer in table.get(&labels.join(".")).into_iter().flatten() {
        match answer {
            Answer::NxDomain => code = 3,
            Answer::ServFail => code = 2,
            Answer::A(address) if kind == A => records.push((A, address.octets().to_vec())),
            Answer::Mx(hosts) if kind == MX => records.extend(hosts.iter().map(|(preference, host)| {
                let data = [&preference.to_be_bytes()[..], &name(host)].concat();
                (MX, data)
            })),
            Answer::Aaaa(address) if kind == AAAA => records.push((AAAA, address.octets().to_vec())),
            Answer::Cname(target) => records.push((CNAME, name(target))),
            Answer::A(_) | Answer::Aaaa(_) | Answer::Mx(_) => {}
        }
    }
    let mut reply = query[..2].to_vec();
    reply.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    reply.extend_from_slice(question);
    for (kind, data) in records {
        reply.extend_from_slice(&[0xc0, 12]);
        reply.extend_from_slice(&kind.to_be_bytes());
        reply.extend_from_slice(&[0, 1, 0, 0, 1, 44]);
        reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
        reply.extend_from_slice(&data);
    }
    reply
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut name: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    name.push(0);
    name
}
