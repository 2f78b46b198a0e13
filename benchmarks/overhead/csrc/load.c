// load: holds N concurrent requests over keep-alive HTTP/1.1 connections to 127.0.0.1 (closed loop: a finished
// answer is followed at once by the next request on the same connection) with one epoll thread.
//   load PORT PATH BODY_FILE [key=value ...] ["Header: value" ...]
//   streams=32    concurrent connections                 ramp=0     seconds over which they open
//   warmup=0      seconds before the window              measure=3  seconds of the window
//   events=64     fewest SSE data events of a whole stream; 0: answers are not streams, any 200 with its whole body counts
//   answers=0     stop after exactly so many requests (0: after the time); the time stays the upper bound
//   chunks=0      in the window: stop once so many events were read (0: no such bound)
// Prints START and END (so that a caller can sample the gateway over the same window) and one JSON line.
// Times in microseconds. ttft: request written -> first data event read. gap: between two successive events of one
// stream. relay: event read minus the "t=<CLOCK_MONOTONIC us>;" that the mock wrote into it.
// A stream fails when its status is not 200, when it has fewer events than asked, no [DONE], an error event,
// bytes after its end, or when its connection ends early.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

typedef struct { uint32_t *v; size_t n, cap; } Samples;
static void add(Samples *s, int64_t x) {
  if (s->n == s->cap) s->v = realloc(s->v, (s->cap = s->cap ? s->cap * 2 : 1 << 16) * sizeof *s->v);
  s->v[s->n++] = x < 0 ? 0 : (uint32_t)x;
}
static int cmp(const void *a, const void *b) { uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b; return x < y ? -1 : x > y; }
static uint32_t pct(Samples *s, double p) { return s->n ? s->v[(size_t)(p * (double)(s->n - 1))] : 0; }
static int64_t now_us(void) {
  struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

enum { CONNECT, HDR, CSIZE, CDATA, CCRLF, TRAILER, RAW, IDLE };  // CONNECT: not yet open; IDLE: nothing more to send; else the parser's
typedef struct {
  int fd, st, chunked, close, status, done, error, events, crlf;
  int64_t t_send, t_last, clen;                           // clen: bytes left in chunk or body (-1: until EOF)
  char hdr[8192]; int nh;
  char line[8192]; int nl;                                // partial SSE line
} Conn;

static int ep, port, n_conn = 32, min_events = 64, req_len, live;
static char *req;
static int64_t t0, t1;                                    // measurement window
static uint64_t limit, chunk_limit, issued;
static Samples ttft, gap, relay;
static uint64_t events_w, bytes_w, done_w, done_all, failed, bad_status, short_streams, error_events, excess, eof_early, conn_err, reconnects;

static void send_req(Conn *c) {
  c->nh = c->nl = c->events = c->done = c->error = c->status = c->chunked = c->close = 0; c->clen = -1;
  if (limit && issued >= limit) { c->st = IDLE; return; }
  c->st = HDR; issued++;
  c->t_send = now_us(); c->t_last = 0;
  ssize_t w = send(c->fd, req, (size_t)req_len, MSG_NOSIGNAL);  // the request is small: one write suffices
  if (w != req_len) conn_err++;                           // the connection's end is seen by the next read
}
static void watch(Conn *c, int op, uint32_t what) {
  struct epoll_event e = {.events = what, .data.ptr = c};
  epoll_ctl(ep, op, c->fd, &e);
}
static void shut(Conn *c) { close(c->fd); c->fd = -1; live--; }
static void refused(Conn *c) { conn_err++; failed++; shut(c); }  // for good: a gateway that does not accept is not hammered
// Never blocks: a gateway that does not accept must not hold up the other connections or the end of the window.
static void open_conn(Conn *c) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  live++; c->st = CONNECT; c->t_send = now_us(); c->t_last = 0;
  if (c->fd < 0) { refused(c); return; }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (!connect(c->fd, (void *)&a, sizeof a)) { watch(c, EPOLL_CTL_ADD, EPOLLIN); send_req(c); }
  else if (errno == EINPROGRESS) watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
  else refused(c);
}
static void connected(Conn *c) {
  int err = 0; socklen_t n = sizeof err;
  if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n) || err) { refused(c); return; }
  watch(c, EPOLL_CTL_MOD, EPOLLIN);
  send_req(c);
}
static void reopen(Conn *c) {
  shut(c);
  if (limit && issued >= limit) return;
  reconnects++; open_conn(c);
}

static void on_line(Conn *c, const char *p, int n, int64_t now) {
  size_t len = (size_t)n;
  if (n < 6 || memcmp(p, "data:", 5)) return;
  if (memmem(p, len, "[DONE]", 6)) { c->done = 1; return; }
  if (memmem(p, len, "\"error\":{", 9) || memmem(p, len, "\"error\": {", 10)) { c->error = 1; return; }
  int in = now >= t0 && now < t1;
  if (!c->events++) add(&ttft, now - c->t_send);           // also during the ramp: same arrival rate
  else if (in) add(&gap, now - c->t_last);
  c->t_last = now;
  if (!in) return;
  events_w++;
  const char *q = memmem(p, len, "\"t=", 3);
  if (q) {
    int64_t t = 0;
    for (q += 3; q < p + n && *q >= '0' && *q <= '9'; q++) t = t * 10 + (*q - '0');
    add(&relay, now - t);
  }
}
static void payload(Conn *c, const char *p, int n, int64_t now) {
  if (!min_events) return;                                 // not a stream: the framing alone is followed
  while (n > 0) {
    const char *e = memchr(p, '\n', (size_t)n);
    int k = e ? (int)(e - p) : n;
    if (!e || c->nl) {                                    // keep a partial line
      if (c->nl + k <= (int)sizeof c->line) { memcpy(c->line + c->nl, p, (size_t)k); c->nl += k; }
      if (!e) return;
      on_line(c, c->line, c->nl, now); c->nl = 0;
    } else on_line(c, p, k, now);
    p += k + 1; n -= k + 1;
  }
}
static void finish(Conn *c, int64_t now, int left) {
  int bad = 1;
  if (c->status != 200) bad_status++;
  else if (c->error) error_events++;
  else if (min_events && (!c->done || c->events < min_events)) short_streams++;
  else if (left) excess++;
  else bad = 0;
  if (bad) failed++;
  else { done_all++; if (now >= t0 && now < t1) done_w++; }
  if (c->status == 200 && !c->close && !left) send_req(c); else reopen(c);
}
// The head is whole: reads the status and how the body is framed. Returns 1 when there is no body.
static int head(Conn *c) {
  char *h;
  c->status = atoi(c->hdr + 9);
  c->chunked = (h = strcasestr(c->hdr, "\r\ntransfer-encoding:")) && strcasestr(h, "chunked");
  c->clen = (h = strcasestr(c->hdr, "\r\ncontent-length:")) ? atoll(h + 17) : -1;
  c->close = strcasestr(c->hdr, "\r\nconnection: close") != 0;
  c->st = c->chunked ? CSIZE : RAW; c->nh = 0;
  return !c->chunked && c->clen == 0;
}
// Consumes one read; returns -1 while the answer goes on, else the number of bytes after its end (none is expected).
static int feed(Conn *c, const char *p, int n, int64_t now) {
  while (n > 0) switch (c->st) {
    case HDR: {
      int room = (int)sizeof c->hdr - 1 - c->nh, k = n < room ? n : room, old = c->nh;
      if (!k) return n;                                    // a head that does not end: status 0
      memcpy(c->hdr + c->nh, p, (size_t)k); c->nh += k; c->hdr[c->nh] = 0;
      char *e = strstr(c->hdr, "\r\n\r\n");
      if (!e) { p += k; n -= k; break; }
      int used = (int)(e + 4 - c->hdr) - old; p += used; n -= used; e[2] = 0;
      if (head(c)) return n;
      break;
    }
    case CSIZE: {
      char ch = *p++; n--;
      if (ch != '\n') { if (c->nh < 31) c->hdr[c->nh++] = ch; break; }
      c->hdr[c->nh] = 0; c->nh = 0; c->clen = strtoll(c->hdr, 0, 16);
      c->crlf = 0; c->st = c->clen > 0 ? CDATA : TRAILER;
      break;
    }
    case CDATA: {
      int k = n < c->clen ? n : (int)c->clen;
      payload(c, p, k, now); p += k; n -= k; c->clen -= k;
      if (!c->clen) { c->st = CCRLF; c->crlf = 0; }
      break;
    }
    case CCRLF: p++; n--; if (++c->crlf == 2) c->st = CSIZE; break;
    case TRAILER: {                                        // lines up to an empty one; crlf: bytes of this line
      char ch = *p++; n--;
      if (ch == '\n') { if (!c->crlf) return n; c->crlf = 0; } else if (ch != '\r') c->crlf++;
      break;
    }
    case RAW: {
      int k = c->clen >= 0 && n > c->clen ? (int)c->clen : n;
      payload(c, p, k, now); p += k; n -= k;
      if (c->clen >= 0 && !(c->clen -= k)) return n;
      break;
    }
    case CONNECT: case IDLE: return n;
  }
  return -1;
}
static void readable(Conn *c) {
  if (c->st == CONNECT) { connected(c); return; }
  static char buf[1 << 18];
  ssize_t r = read(c->fd, buf, sizeof buf);
  int64_t now = now_us();
  if (c->st == IDLE && r >= 0) { shut(c); return; }
  if (r > 0) {
    if (now >= t0 && now < t1) bytes_w += (uint64_t)r;
    int left = feed(c, buf, (int)r, now);
    if (left >= 0) finish(c, now, left);
  } else if (r == 0 || (errno != EAGAIN && errno != EINTR)) {
    // EOF ends an answer that has neither length nor chunking; otherwise it is a drop.
    if (c->st == RAW && c->clen < 0) { c->close = 1; finish(c, now, 0); }
    else { eof_early++; failed++; reopen(c); }
  }
}
static void print(int opened, Conn *cs) {
  int64_t end = now_us(); int stalled = 0;
  for (int i = 0; i < opened; i++) {                       // no event for 2 s: stalled
    int64_t last = cs[i].t_last ? cs[i].t_last : cs[i].t_send;
    if (cs[i].fd >= 0 && cs[i].st != IDLE && end - last > 2000000) stalled++;
  }
  struct rusage ru; getrusage(RUSAGE_SELF, &ru);
  double cpu = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
  Samples *all[3] = {&ttft, &gap, &relay}; const char *nm[3] = {"ttft", "gap", "relay"};
  printf("JSON {\"streams\":%d,\"window_s\":%.3f,\"events\":%lu,\"bytes\":%lu,\"finished\":%lu,\"answers\":%lu,\"issued\":%lu,\"failed\":%lu,"
         "\"bad_status\":%lu,\"short\":%lu,\"error_events\":%lu,\"excess\":%lu,\"eof_early\":%lu,\"conn_err\":%lu,\"reconnects\":%lu,"
         "\"stalled\":%d,\"client_cpu_s\":%.3f",
         n_conn, (double)(t1 - t0) / 1e6, events_w, bytes_w, done_w, done_all, issued, failed,
         bad_status, short_streams, error_events, excess, eof_early, conn_err, reconnects, stalled, cpu);
  for (int i = 0; i < 3; i++) {
    if (all[i]->n) qsort(all[i]->v, all[i]->n, 4, cmp);
    printf(",\"%s_p50\":%u,\"%s_p99\":%u,\"%s_max\":%u,\"%s_n\":%zu", nm[i], pct(all[i], .5), nm[i], pct(all[i], .99), nm[i], pct(all[i], 1), nm[i], all[i]->n);
  }
  puts("}");
}

int main(int argc, char **argv) {
  if (argc < 4) { fprintf(stderr, "usage: load PORT PATH BODY_FILE [key=value ...] [\"Header: value\" ...]\n"); return 2; }
  signal(SIGPIPE, SIG_IGN);
  port = atoi(argv[1]);
  double warm = 0, meas = 3, ramp = 0;
  static char body[1 << 20], hdrs[1 << 14];
  FILE *f = fopen(argv[3], "rb"); size_t nb = f ? fread(body, 1, sizeof body, f) : 0;
  if (!nb) { perror(argv[3]); return 2; }
  fclose(f);
  for (int i = 4; i < argc; i++) {
    char *v = strchr(argv[i], '=');
    if (strstr(argv[i], ": ")) {
      if (strlen(hdrs) + strlen(argv[i]) + 3 > sizeof hdrs) return 2;
      strcat(hdrs, argv[i]); strcat(hdrs, "\r\n");
    } else if (!v) { fprintf(stderr, "not key=value: %s\n", argv[i]); return 2; }
    else if (!strncmp(argv[i], "streams=", 8)) n_conn = atoi(v + 1);
    else if (!strncmp(argv[i], "events=", 7)) min_events = atoi(v + 1);
    else if (!strncmp(argv[i], "warmup=", 7)) warm = atof(v + 1);
    else if (!strncmp(argv[i], "measure=", 8)) meas = atof(v + 1);
    else if (!strncmp(argv[i], "ramp=", 5)) ramp = atof(v + 1);
    else if (!strncmp(argv[i], "answers=", 8)) limit = strtoull(v + 1, 0, 10);
    else if (!strncmp(argv[i], "chunks=", 7)) chunk_limit = strtoull(v + 1, 0, 10);
    else { fprintf(stderr, "unknown: %s\n", argv[i]); return 2; }
  }
  if (n_conn < 1 || n_conn > 8192 || meas <= 0 || meas > 3600 || warm < 0 || warm > 60 || ramp < 0 || ramp > 60) {
    fprintf(stderr, "out of range: streams 1..8192, measure to 3600 s, warmup and ramp to 60 s\n"); return 2;
  }
  req = malloc(nb + sizeof hdrs + strlen(argv[2]) + 512);
  req_len = sprintf(req, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                         "Accept: %s\r\n%sContent-Length: %zu\r\n\r\n", argv[2], port,
                    min_events ? "text/event-stream" : "application/json", hdrs, nb);
  memcpy(req + req_len, body, nb); req_len += (int)nb;
  Conn *cs = calloc((size_t)n_conn, sizeof *cs);
  ep = epoll_create1(0);
  int64_t start = now_us(); int opened = 0, announced = 0;
  t0 = start + (int64_t)((ramp + warm) * 1e6); t1 = t0 + (int64_t)(meas * 1e6);
  struct epoll_event ev[256];
  for (;;) {
    int64_t now = now_us();
    if (!announced && now >= t0) { puts("START"); fflush(stdout); announced = 1; }
    if (now >= t1 || (limit && done_all + failed >= limit) || (chunk_limit && events_w >= chunk_limit)) break;
    // Connections open evenly over the ramp, so that streams are not in lock-step.
    int want = ramp > 0 ? (int)((double)(now - start) / (ramp * 1e6) * n_conn) + 1 : n_conn;
    for (; opened < n_conn && opened < want; opened++) open_conn(&cs[opened]);
    if (opened == n_conn && !live) break;                 // nobody is left to wait for
    int k = epoll_wait(ep, ev, 256, opened < n_conn ? 1 : 10);
    for (int i = 0; i < k; i++) readable(ev[i].data.ptr);
  }
  if (now_us() < t1) t1 = now_us();                       // ended by a count: the window was shorter
  puts("END"); fflush(stdout);
  print(opened, cs);
  free(cs); free(req); free(ttft.v); free(gap.v); free(relay.v);
  return 0;
}
