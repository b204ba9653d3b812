// Inner parts of transport.cc and tls.cc.
#pragma once

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include <string>

namespace mesh::rpc {

// A BIO over a socket that sends with MSG_NOSIGNAL: OpenSSL's own would raise SIGPIPE in a process that is not ours.
BIO* NewSocketBio(int fd);
// The texts of this thread's OpenSSL error queue, which is empty afterwards; "" when there was none.
std::string TakeTlsErrors();

}  // namespace mesh::rpc
