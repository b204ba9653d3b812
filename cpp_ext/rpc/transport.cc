#include "rpc/transport.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "rpc/tls_bio.h"

namespace mesh::rpc {
namespace {

constexpr int kRangesPerWrite = 64;
constexpr int kDiscardsPerTurn = 8;
constexpr std::size_t kTlsRecord = 16UL * 1024;

void SetNoDelay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // fails on sockets that are not TCP, which need it not
}

SSL* NewSsl(const TlsContext& context, int fd) {
  SSL* ssl = SSL_new(context.get());
  if (ssl == nullptr) return nullptr;
  BIO* bio = NewSocketBio(fd);
  if (bio == nullptr) {
    SSL_free(ssl);
    return nullptr;
  }
  SSL_set_bio(ssl, bio, bio);
  return ssl;
}

bool IsIpAddress(const std::string& name) {
  unsigned char bytes[sizeof(in6_addr)];
  return inet_pton(AF_INET, name.c_str(), bytes) == 1 || inet_pton(AF_INET6, name.c_str(), bytes) == 1;
}

// What the server's certificate must be valid for.
void ExpectName(SSL* ssl, const std::string& name) {
  if (name.empty()) return;
  if (IsIpAddress(name)) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.c_str());
    return;
  }
  SSL_set_tlsext_host_name(ssl, name.c_str());
  SSL_set1_host(ssl, name.c_str());
}

std::string FormatAddress(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return std::string(text) + ":" + std::to_string(ntohs(v4.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    return "[" + std::string(text) + "]:" + std::to_string(ntohs(v6.sin6_port));
  }
  return "unknown";
}

}  // namespace

std::unique_ptr<Transport> Transport::Accepted(int fd, std::shared_ptr<TlsContext> tls) {
  SetNoDelay(fd);
  std::unique_ptr<Transport> made(new Transport(fd, std::move(tls)));
  if (made->tls_ == nullptr) return made;
  made->ssl_ = NewSsl(*made->tls_, fd);
  if (made->ssl_ != nullptr) SSL_set_accept_state(made->ssl_);
  return made;
}

std::unique_ptr<Transport> Transport::Connecting(int fd, std::shared_ptr<TlsContext> tls,
                                                 const std::string& server_name) {
  SetNoDelay(fd);
  std::unique_ptr<Transport> made(new Transport(fd, std::move(tls)));
  made->connecting_ = true;
  if (made->tls_ == nullptr) return made;
  made->ssl_ = NewSsl(*made->tls_, fd);
  if (made->ssl_ == nullptr) return made;
  SSL_set_connect_state(made->ssl_);
  ExpectName(made->ssl_, server_name);
  return made;
}

Transport::~Transport() {
  if (ssl_ != nullptr) SSL_free(ssl_);
  close(fd_);
}

Transport::HandshakeState Transport::Handshake() {
  if (handshake_done_) return HandshakeState::kDone;
  if (connecting_) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    int error = 0;
    socklen_t error_size = sizeof error;
    getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &error_size);
    if (error != 0) {
      Fail("connect", error);
      return HandshakeState::kFailed;
    }
    if (getpeername(fd_, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return HandshakeState::kWantWrite;
    connecting_ = false;
  }
  if (tls_ == nullptr) {
    handshake_done_ = true;
    return HandshakeState::kDone;
  }
  return HandshakeTls();
}

Transport::HandshakeState Transport::HandshakeTls() {
  if (ssl_ == nullptr) {
    error_ = "TLS: no memory for a connection";
    return HandshakeState::kFailed;
  }
  ERR_clear_error();
  const int outcome = SSL_do_handshake(ssl_);
  if (outcome == 1) {
    if (!CheckAlpn()) return HandshakeState::kFailed;
    handshake_done_ = true;
    return HandshakeState::kDone;
  }
  switch (SSL_get_error(ssl_, outcome)) {
    case SSL_ERROR_WANT_READ: return HandshakeState::kWantRead;
    case SSL_ERROR_WANT_WRITE: return HandshakeState::kWantWrite;
    default: FailTls(outcome, "handshake"); return HandshakeState::kFailed;
  }
}

bool Transport::CheckAlpn() {
  const unsigned char* protocol = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_, &protocol, &size);
  if (size == 2 && std::memcmp(protocol, "h2", 2) == 0) return true;
  if (tls_->http1()) return true;  // "http/1.1" or none: the first bytes decide
  error_ = "TLS: the peer does not speak HTTP/2 (it did not agree to ALPN h2)";
  return false;
}

Transport::Io Transport::Read(char* buffer, std::size_t size) {
  if (ssl_ == nullptr) {
    ssize_t got = 0;
    do {
      got = recv(fd_, buffer, size, 0);
    } while (got < 0 && errno == EINTR);
    if (got > 0) return {IoState::kOk, static_cast<std::size_t>(got)};
    if (got == 0) return {IoState::kClosed, 0};
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {IoState::kBlocked, 0};
    return Fail("read", errno);
  }
  std::size_t filled = 0;
  read_wants_write_ = false;
  while (filled < size) {
    ERR_clear_error();
    const int got = SSL_read(ssl_, buffer + filled, static_cast<int>(std::min<std::size_t>(size - filled, 1 << 30)));
    if (got > 0) {
      filled += static_cast<std::size_t>(got);
      continue;
    }
    read_wants_write_ = SSL_get_error(ssl_, got) == SSL_ERROR_WANT_WRITE;  // to answer a change of keys
    if (filled > 0) break;                                                 // the reason comes back with the next call
    return FailTls(got, "read");
  }
  return {IoState::kOk, filled};
}

bool Transport::has_buffered_input() const { return ssl_ != nullptr && SSL_pending(ssl_) > 0; }

std::uint32_t Transport::Interest(bool write_blocked) const {
  const bool writable = read_wants_write_ || (write_blocked && !write_wants_read_);
  return (read_wants_write_ ? 0U : static_cast<std::uint32_t>(EPOLLIN)) |
         (writable ? static_cast<std::uint32_t>(EPOLLOUT) : 0U);
}

Transport::Io Transport::Write(OutputQueue* queue) { return ssl_ == nullptr ? WritePlain(queue) : WriteTls(queue); }

Transport::Io Transport::WritePlain(OutputQueue* queue) {
  std::size_t written = 0;
  std::array<iovec, kRangesPerWrite> ranges;
  while (!queue->empty()) {
    msghdr message{};
    message.msg_iov = ranges.data();
    message.msg_iovlen = static_cast<std::size_t>(queue->Describe(ranges.data(), kRangesPerWrite));
    const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return {IoState::kBlocked, written};
      return Fail("write", errno);
    }
    queue->Drop(static_cast<std::size_t>(sent));
    written += static_cast<std::size_t>(sent);
  }
  return {IoState::kOk, written};
}

Transport::Io Transport::WriteTls(OutputQueue* queue) {
  std::size_t written = 0;
  write_wants_read_ = false;
  std::array<iovec, kRangesPerWrite> ranges;
  std::array<char, kTlsRecord> record;
  while (!queue->empty()) {
    // Whole records: many small ranges cost one record and one system call. After a block the same bytes come again.
    std::size_t filled = 0;
    const int count = queue->Describe(ranges.data(), kRangesPerWrite);
    for (int i = 0; i < count && filled < record.size(); ++i) {
      const std::size_t part = std::min(ranges[i].iov_len, record.size() - filled);
      std::memcpy(record.data() + filled, ranges[i].iov_base, part);
      filled += part;
    }
    ERR_clear_error();
    const int sent = SSL_write(ssl_, record.data(), static_cast<int>(filled));
    if (sent <= 0) {
      write_wants_read_ = SSL_get_error(ssl_, sent) == SSL_ERROR_WANT_READ;
      Io io = FailTls(sent, "write");
      io.bytes = written;
      return io;
    }
    queue->Drop(static_cast<std::size_t>(sent));
    written += static_cast<std::size_t>(sent);
  }
  return {IoState::kOk, written};
}

Transport::Io Transport::FailTls(int outcome, const char* action) {
  const int system_error = errno;
  switch (SSL_get_error(ssl_, outcome)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: return {IoState::kBlocked, 0};
    case SSL_ERROR_ZERO_RETURN: return {IoState::kClosed, 0};
    case SSL_ERROR_SYSCALL:
      if (outcome == 0 || system_error == 0) break;
      return Fail(action, system_error);
    default: break;
  }
  const std::string reasons = TakeTlsErrors();
  error_ = std::string("TLS ") + action + " failed: " + (reasons.empty() ? "the peer closed the connection" : reasons);
  if (SSL_get_verify_result(ssl_) != X509_V_OK) {
    error_ += std::string(" (") + X509_verify_cert_error_string(SSL_get_verify_result(ssl_)) + ")";
  }
  return {IoState::kFailed, 0};
}

Transport::Io Transport::Fail(const char* action, int error_number) {
  error_ = std::string(action) + " failed: " + std::strerror(error_number);
  return {IoState::kFailed, 0};
}

bool Transport::DiscardInput() {
  char rubbish[4096];
  for (int turn = 0; turn < kDiscardsPerTurn; ++turn) {
    const ssize_t got = recv(fd_, rubbish, sizeof rubbish, 0);
    if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR);
  }
  return true;
}

void Transport::ShutdownWrite() {
  if (ssl_ != nullptr && handshake_done_) {
    ERR_clear_error();
    SSL_shutdown(ssl_);  // best effort: the connection ends anyway
    ERR_clear_error();
  }
  shutdown(fd_, SHUT_WR);
}

std::string PeerAddress(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  return getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 ? FormatAddress(address) : "unknown";
}

std::string LocalAddress(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  return getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 ? FormatAddress(address) : "unknown";
}

}  // namespace mesh::rpc
