"""How requests to commercial APIs are authenticated: signers that give header lines, and credentials renewed ahead of their expiry.

A signer has `lines(method, path, body)`: the header lines of one request, each with its CRLF; it never blocks and raises `Fault` when
there are no credentials now. `start()` begins to obtain what must be obtained, `close()` ends that; both are idempotent and do nothing
for keys. No signer shows a secret in its `repr`, in an error or in a log.
"""
