//! How long a registry that is busy is asked for what lies there.
#![expect(clippy::unwrap_used, reason = "test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dcbuild_carry::{Place as _, RegistryPlace};
use dcbuild_registry::{Anonymous, RawRegistryConfig, RegistryClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::task::TaskTracker;

/// A registry that has too much to do, and the count of what it was asked.
async fn busy(tasks: &TaskTracker) -> (String, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            if stream.read(&mut request).await.unwrap_or(0) > 0 {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = "HTTP/1.1 429 Busy\r\nretry-after: 6\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (host, asked)
}

#[tokio::test]
async fn who_writes_a_cache_is_patient_and_who_looks_for_one_is_not() {
    let (host, asked) = busy(&TaskTracker::new()).await;
    let config = RawRegistryConfig::default().resolve().unwrap();
    let client = RegistryClient::new(config, Arc::new(Anonymous)).unwrap();
    let place = RegistryPlace::new(client, format!("{host}/team/cache:1").parse().unwrap());
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    place.clone().in_a_hurry().manifest(None).await.unwrap_err();
    assert!(begun.elapsed().as_secs() <= 10, "{:?}", begun.elapsed());
    let briefly = asked.swap(0, Ordering::SeqCst);
    place.former().await.unwrap_err();
    let patiently = asked.load(Ordering::SeqCst);
    assert!(briefly > 0 && patiently > briefly, "{briefly} and {patiently}");
}
