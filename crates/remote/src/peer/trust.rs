//! What keeps two workers from trusting each other.

use dcbuild_process::TlsFault;

/// What to do about two workers that do not trust each other.
pub(super) fn way_out(fault: TlsFault) -> &'static str {
    match fault {
        TlsFault::Untrusted => {
            "its certificate must be from a CA in worker.tls.peer_ca, or worker.tls.ca, of this worker"
        }
        TlsFault::Expired | TlsFault::Early => {
            "renew worker.tls.cert there, which is read again by itself, or set the clocks"
        }
        TlsFault::Another => "it was renewed this moment, or another program has its port now",
        TlsFault::Wanted => "give this worker one with worker.tls.cert and worker.tls.key",
        TlsFault::RefusedDate => {
            "renew worker.tls.cert of this worker, which is read again by itself, or set the clocks"
        }
        TlsFault::RefusedUse => "the key usage of worker.tls.cert must allow clients",
        TlsFault::RefusedIssuer | TlsFault::Refused => {
            "worker.tls.cert of this worker must be from a CA in worker.tls.peer_ca, or worker.tls.ca, of that one"
        }
        TlsFault::OtherName | TlsFault::Unusable | TlsFault::Authority => {
            "look at its certificate with `openssl s_client -connect HOST:PORT`"
        }
        TlsFault::Plain | TlsFault::Failed => "another program has its port now",
    }
}
