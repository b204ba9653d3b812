/* What a replica and the library of a deployment say to each other: C structs and functions, so that both may be
 * compiled with any compiler and any settings. Users write against mesh/deployment.h, which is made of this.
 *
 * Tables only grow at their end within one MESH_ABI_VERSION; `size` says how much of one is there. Texts are UTF-8 with
 * their length, and NUL-terminated where they are a plain `const char*`. Nothing throws across.
 */
#ifndef MESH_ABI_H
#define MESH_ABI_H

/* NOLINTBEGIN(modernize-*): this is C, too */
#include <stddef.h>
#include <stdint.h>

#define MESH_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MeshText {
  const char* data;
  size_t size;
} MeshText;

/* Takes a text: where errors and other answers of unknown length go. */
typedef struct MeshSink {
  void* self;
  void (*put)(void* self, const char* data, size_t size);
} MeshSink;

/* Bytes in host memory, as KServe's raw contents hold them: rows one after the other, little endian, each element of
 * BYTES behind its length of four bytes. */
typedef struct MeshTensor {
  const char* name;
  const char* datatype; /* "FP32", "BYTES", ... */
  const int64_t* shape;
  size_t dims;
  const void* data;
  size_t size;
} MeshTensor;

enum { MESH_BOOL = 1, MESH_INTEGER = 2, MESH_NUMBER = 3, MESH_TEXT = 4, MESH_JSON = 5 };

/* A named value: a parameter of a request, or a member of args or config. MESH_JSON: an object, a list or null, as
 * text. */
typedef struct MeshValue {
  const char* name;
  int32_t kind;
  int32_t boolean;
  int64_t integer;
  double number;
  MeshText text;
} MeshValue;

/* A JSON object: its members, and the whole of it as text. */
typedef struct MeshSettings {
  const MeshValue* values;
  size_t count;
  MeshText json;
} MeshSettings;

typedef struct MeshMetadata {
  MeshText key; /* lower case */
  MeshText value;
} MeshMetadata;

/* One request, as long as its exchange is not released. */
typedef struct MeshExchange MeshExchange;
typedef struct MeshRequest {
  uint32_t size;
  const char* id; /* empty where the client gave none */
  const MeshTensor* inputs;
  size_t input_count;
  const char* const* outputs; /* those the client wants */
  size_t output_count;
  const MeshValue* parameters;
  size_t parameter_count;
  const MeshMetadata* metadata; /* of gRPC, or headers of HTTP */
  size_t metadata_count;
  int64_t deadline_ns; /* of the steady clock (CLOCK_MONOTONIC); INT64_MAX: none */
} MeshRequest;

/* The answer of a model or of another deployment, until it is released. */
typedef struct MeshReply MeshReply;

/* A question to an embedded model, or to another deployment of the application. The memory of all of it stays until
 * `done` is called. */
typedef struct MeshQuestion {
  uint32_t size;
  const char* deployment; /* null: a model of this process */
  const char* model;      /* empty: the deployment's name */
  const char* version;    /* empty: any */
  const char* id;
  const MeshTensor* inputs;
  size_t input_count;
  const char* const* outputs; /* none: all */
  size_t output_count;
  const MeshValue* parameters;
  size_t parameter_count;
  MeshExchange* parent; /* whose deadline, cancellation, trace it shares; may be null */
  int64_t timeout_ns;   /* 0: none but the parent's */
  int32_t run_once;     /* not 0: a deployment is never asked a second time after it may have begun */
  int32_t quick;        /* not 0: `done` neither blocks nor runs code of the user's: any thread may call it */
  void* self;
  /* Exactly once. `reply` becomes the callee's, to be released; null where `code` is not 0. */
  void (*done)(void* self, int32_t code, const char* message, size_t message_size, MeshReply* reply);
} MeshQuestion;

/* What the replica offers; stays until the deployment was destroyed. All functions may be called from any thread. Codes
 * are those of gRPC. */
typedef struct MeshHost {
  uint32_t size;
  uint32_t abi;
  void* self;
  MeshSettings args;
  const char* deployment;
  const char* model; /* the name that clients ask for */
  const char* application;
  const char* replica;
  const char* code_folder;  /* holds the library; empty: not known */
  const char* model_folder; /* the models that this process may call; empty: none */

  void (*log)(void* self, int32_t level, const char* text, size_t size); /* 0 debug, 1 info, 2 warning, 3 error */
  void (*ask)(void* self, const MeshQuestion* question);
  /* Begins to follow the endpoints of the application, so that the first question need not wait for them. */
  void (*follow)(void* self);
  const MeshTensor* (*reply_outputs)(const MeshReply* reply, size_t* count);
  void (*reply_release)(MeshReply* reply);

  /* Of one exchange, on one thread at a time, but for `cancelled` and `unread_bytes`. */
  int32_t (*cancelled)(const MeshExchange* exchange);
  size_t (*unread_bytes)(const MeshExchange* exchange); /* of answers that the client has not taken yet */
  /* A buffer of the answer, to be filled before it is sent; null for 0 bytes. */
  int32_t (*output)(MeshExchange* exchange, const char* name, const char* datatype, const int64_t* shape, size_t dims,
                    size_t size, void** data, MeshSink error);
  int32_t (*set_parameter)(MeshExchange* exchange, const MeshValue* value, MeshSink error);
  /* Of a streamed deployment: sends the answer as one of several. `wait` not 0: returns when the client has taken
   * enough of them. CANCELLED when nobody waits for answers any more. */
  int32_t (*send)(MeshExchange* exchange, int32_t wait, MeshSink error);
  /* The end, once: with code 0 what was put into the answer goes out, else the error. */
  void (*finish)(MeshExchange* exchange, int32_t code, const char* message, size_t message_size);
  /* The request is not read any more. Once, after finish; the exchange is gone then. */
  void (*release)(MeshExchange* exchange);
} MeshHost;

/* Takes what a deployment says of itself. */
typedef struct MeshSignatureSink {
  void* self;
  void (*input)(void* self, const char* name, const char* datatype, const int64_t* shape, size_t dims,
                int32_t optional);
  void (*output)(void* self, const char* name, const char* datatype, const int64_t* shape, size_t dims);
  void (*streamed)(void* self);
} MeshSignatureSink;

/* What the library of a deployment offers. Functions that return a code put the reason into `error`. */
typedef struct MeshFactory {
  uint32_t size;
  uint32_t abi;
  const char* version; /* of the headers that it was compiled with */
  int32_t (*create)(const MeshHost* host, void** deployment, MeshSink error);
  void (*destroy)(void* deployment);
  int32_t (*describe)(void* deployment, const MeshSignatureSink* signature, MeshSink error);
  /* Takes the exchange: it calls finish and release, now or later. */
  void (*infer)(void* deployment, MeshExchange* exchange, const MeshRequest* request);
  int32_t (*health)(void* deployment, MeshSink error);
  int32_t (*reconfigure)(void* deployment, const MeshSettings* config, MeshSink error);
} MeshFactory;

/* The one symbol that a library exports: `const MeshFactory* mesh_deployment_factory(void)`. */
typedef const MeshFactory* (*MeshFactoryFunction)(void);
#define MESH_FACTORY_SYMBOL "mesh_deployment_factory"

#ifdef __cplusplus
}
#endif

/* NOLINTEND(modernize-*) */

#endif
