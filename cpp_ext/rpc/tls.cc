#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "rpc/tls_bio.h"
#include "rpc/transport.h"

namespace mesh::rpc {
namespace {

constexpr unsigned char kAlpnH2[] = {2, 'h', '2'};
constexpr unsigned char kAlpnBoth[] = {2, 'h', '2', 8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

int BioFd(BIO* bio) { return static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio))); }

int BioOutcome(BIO* bio, ssize_t outcome, int retry_flag) {
  BIO_clear_retry_flags(bio);
  if (outcome < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    BIO_set_flags(bio, retry_flag | BIO_FLAGS_SHOULD_RETRY);
  }
  return static_cast<int>(outcome);
}

int BioWrite(BIO* bio, const char* data, int size) {
  return BioOutcome(bio, send(BioFd(bio), data, static_cast<std::size_t>(size), MSG_NOSIGNAL), BIO_FLAGS_WRITE);
}

int BioRead(BIO* bio, char* data, int size) {
  return BioOutcome(bio, recv(BioFd(bio), data, static_cast<std::size_t>(size), 0), BIO_FLAGS_READ);
}

// NOLINTNEXTLINE(google-runtime-int): the types are OpenSSL's
long BioControl(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO_METHOD* SocketBioMethod() {
  static BIO_METHOD* method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mesh socket");
    BIO_meth_set_write(made, BioWrite);
    BIO_meth_set_read(made, BioRead);
    BIO_meth_set_ctrl(made, BioControl);
    return made;
  }();
  return method;
}

int SelectAlpn(SSL* /*ssl*/, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
               unsigned in_size, void* context) {
  const bool http1 = static_cast<const TlsContext*>(context)->http1();
  const unsigned char* ours = http1 ? kAlpnBoth : kAlpnH2;
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, ours, http1 ? sizeof kAlpnBoth : sizeof kAlpnH2, in, in_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

Status FileError(const std::string& what, const std::string& file) {
  return {Code::kInvalidArgument, "TLS: cannot use the " + what + " '" + file + "': " + TakeTlsErrors()};
}

Status LoadCertificate(SSL_CTX* context, const TlsOptions& options) {
  if (SSL_CTX_use_certificate_chain_file(context, options.cert_file.c_str()) != 1) {
    return FileError("certificate file", options.cert_file);
  }
  if (SSL_CTX_use_PrivateKey_file(context, options.key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    return FileError("key file", options.key_file);
  }
  if (SSL_CTX_check_private_key(context) != 1) {
    return {Code::kInvalidArgument,
            "TLS: the key '" + options.key_file + "' does not belong to the certificate '" + options.cert_file + "'"};
  }
  return {};
}

SSL_CTX* NewContext(const SSL_METHOD* method) {
  SSL_CTX* context = SSL_CTX_new(method);
  if (context == nullptr) return nullptr;
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(context,
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  // HTTP/2 forbids TLS 1.2's other suites (RFC 9113, 9.2.2).
  SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20");
  return context;
}

}  // namespace

BIO* NewSocketBio(int fd) {
  BIO* bio = BIO_new(SocketBioMethod());
  if (bio == nullptr) return nullptr;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the descriptor travels in the BIO's pointer
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)));
  BIO_set_init(bio, 1);
  return bio;
}

std::string TakeTlsErrors() {
  std::string all;
  while (const std::uint64_t error = ERR_get_error()) {
    const char* reason = ERR_reason_error_string(error);
    char text[256];
    if (reason == nullptr) ERR_error_string_n(error, text, sizeof text);
    if (!all.empty()) all += "; ";
    all += reason != nullptr ? reason : text;
  }
  return all;
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

Result<std::shared_ptr<TlsContext>> TlsContext::Server(const TlsOptions& options, bool http1) {
  ERR_clear_error();
  if (options.cert_file.empty() || options.key_file.empty()) {
    return Status(Code::kInvalidArgument, "TLS: a server needs cert_file and key_file");
  }
  std::shared_ptr<TlsContext> made(new TlsContext(NewContext(TLS_server_method()), http1));
  SSL_CTX* context = made->get();
  if (context == nullptr) return Status(Code::kInternal, "TLS: cannot start OpenSSL: " + TakeTlsErrors());
  Status loaded = LoadCertificate(context, options);
  if (!loaded.ok()) return loaded;
  SSL_CTX_set_alpn_select_cb(context, SelectAlpn, made.get());
  static constexpr unsigned char kSessionContext[] = "mesh";
  SSL_CTX_set_session_id_context(context, kSessionContext, sizeof kSessionContext - 1);
  if (options.ca_file.empty()) return made;
  if (SSL_CTX_load_verify_locations(context, options.ca_file.c_str(), nullptr) != 1) {
    return FileError("CA file", options.ca_file);
  }
  SSL_CTX_set_client_CA_list(context, SSL_load_client_CA_file(options.ca_file.c_str()));
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return made;
}

Result<std::shared_ptr<TlsContext>> TlsContext::Client(const TlsOptions& options) {
  ERR_clear_error();
  std::shared_ptr<TlsContext> made(new TlsContext(NewContext(TLS_client_method()), false));
  SSL_CTX* context = made->get();
  if (context == nullptr) return Status(Code::kInternal, "TLS: cannot start OpenSSL: " + TakeTlsErrors());
  if (!options.cert_file.empty() || !options.key_file.empty()) {
    Status loaded = LoadCertificate(context, options);
    if (!loaded.ok()) return loaded;
  }
  const bool loaded = options.ca_file.empty()
                          ? SSL_CTX_set_default_verify_paths(context) == 1
                          : SSL_CTX_load_verify_locations(context, options.ca_file.c_str(), nullptr) == 1;
  if (!loaded) return FileError("CA file", options.ca_file);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  if (SSL_CTX_set_alpn_protos(context, kAlpnH2, sizeof kAlpnH2) != 0) {
    return Status(Code::kInternal, "TLS: cannot offer ALPN h2");
  }
  return made;
}

}  // namespace mesh::rpc
