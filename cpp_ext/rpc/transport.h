// A connected, non-blocking stream socket with optional TLS, in either role. Owns the descriptor. Not thread-safe.
//
//   switch (transport->Handshake()) { kDone: speak HTTP/2; kWantRead / kWantWrite: wait for EPOLLIN / EPOLLOUT and call
//   again; kFailed: transport->error() says why }
// After that: Read when EPOLLIN, Write when there is something to write, EPOLLOUT only after a Write that blocked.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "common/status.h"
#include "rpc/output_queue.h"
#include "rpc/server.h"

struct ssl_ctx_st;
struct ssl_st;

namespace mesh::rpc {

// Certificates and rules, loaded once and shared by many connections. TLS 1.2 or newer; ALPN "h2", and on a server
// that also serves HTTP/1 "http/1.1" or none.
class TlsContext {
 public:
  // Needs cert_file and key_file; with ca_file clients must present a certificate of it.
  static Result<std::shared_ptr<TlsContext>> Server(const TlsOptions& options, bool http1 = false);
  // ca_file checks the server (empty: the system's authorities); cert_file and key_file are presented when given.
  static Result<std::shared_ptr<TlsContext>> Client(const TlsOptions& options);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  [[nodiscard]] ssl_ctx_st* get() const { return context_; }
  [[nodiscard]] bool http1() const { return http1_; }

 private:
  TlsContext(ssl_ctx_st* context, bool http1) : context_(context), http1_(http1) {}
  ssl_ctx_st* context_;
  const bool http1_;
};

class Transport {
 public:
  enum class HandshakeState : std::uint8_t { kDone, kWantRead, kWantWrite, kFailed };
  enum class IoState : std::uint8_t {
    kOk,       // `bytes` were moved
    kBlocked,  // nothing possible now
    kClosed,   // the peer closed its side
    kFailed,   // error() says why
  };
  struct Io {
    IoState state;
    std::size_t bytes;
  };

  // `fd` is connected and non-blocking; `tls` may be null.
  static std::unique_ptr<Transport> Accepted(int fd, std::shared_ptr<TlsContext> tls);
  // `fd` may still be connecting (EINPROGRESS). `server_name` is what the server's certificate must name; an IP address
  // is checked as such.
  static std::unique_ptr<Transport> Connecting(int fd, std::shared_ptr<TlsContext> tls, const std::string& server_name);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] bool encrypted() const { return ssl_ != nullptr; }
  [[nodiscard]] const std::string& error() const { return error_; }

  HandshakeState Handshake();
  // A return of fewer bytes than `size` means that the socket is empty for now.
  Io Read(char* buffer, std::size_t size);
  // Bytes that TLS has decrypted already: epoll does not know of them, so read again before waiting.
  [[nodiscard]] bool has_buffered_input() const;
  // Writes from the queue until it is empty or the socket is full, and drops what was written.
  Io Write(OutputQueue* queue);
  // What to wait for: EPOLLIN, unless TLS must write before it can read on; with `write_blocked`, after a Write that
  // blocked, EPOLLOUT, unless TLS must read before it can write on. Either event is a reason to try both again.
  [[nodiscard]] std::uint32_t Interest(bool write_blocked) const;
  // Reading goes on when the socket takes bytes.
  [[nodiscard]] bool read_waits_for_write() const { return read_wants_write_; }
  // Takes what has come and forgets it. False when nothing more will come.
  bool DiscardInput();
  // Says to the peer that nothing more comes (TLS close_notify, FIN).
  void ShutdownWrite();

 private:
  Transport(int fd, std::shared_ptr<TlsContext> tls) : fd_(fd), tls_(std::move(tls)) {}
  HandshakeState HandshakeTls();
  Io WritePlain(OutputQueue* queue);
  Io WriteTls(OutputQueue* queue);
  Io FailTls(int outcome, const char* action);
  Io Fail(const char* action, int error_number);
  bool CheckAlpn();

  const int fd_;
  const std::shared_ptr<TlsContext> tls_;
  ssl_st* ssl_ = nullptr;
  bool connecting_ = false;
  bool handshake_done_ = false;
  bool read_wants_write_ = false;
  bool write_wants_read_ = false;
  std::string error_;
};

// "127.0.0.1:51234", "[::1]:443"; of the peer or of the socket itself.
std::string PeerAddress(int fd);
std::string LocalAddress(int fd);

}  // namespace mesh::rpc
