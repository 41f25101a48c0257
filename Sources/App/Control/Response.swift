import FoundationEssentials
import NIOCore
import NIOHTTP1

/// What a client gets.
struct Response: Sendable {
  let status: HTTPResponseStatus
  let contentType: String
  let body: ByteBuffer
  /// Its connection gets each record that comes, from now on.
  var watches = false

  init(_ status: HTTPResponseStatus = .ok, contentType: String, body: ByteBuffer) {
    self.status = status
    self.contentType = contentType
    self.body = body
  }

  /// A reply as JSON, a line at its end.
  init(json reply: some Encodable, _ status: HTTPResponseStatus = .ok) {
    do {
      var data = try JSON.encoder().encode(reply)
      data.append(UInt8(ascii: "\n"))
      self.init(status, contentType: "application/json", body: ByteBuffer(bytes: data))
    } catch {
      // No reply has a number or a key that JSON could not hold.
      self.init(
        .internalServerError, contentType: "text/plain", body: ByteBuffer(string: "\(error)\n"))
    }
  }

  init(_ problem: Problem) {
    self.init(json: Reply.Problem(error: problem.message), problem.status)
  }
}

/// Why a request cannot be answered, and what to do about it.
struct Problem: Error {
  let status: HTTPResponseStatus
  let message: String

  init(_ status: HTTPResponseStatus, _ message: String) {
    self.status = status
    self.message = message
  }
}

/// JSON as the socket speaks it: names_like_this, keys in order.
enum JSON {
  static func encoder(pretty: Bool = false) -> JSONEncoder {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    if pretty { encoder.outputFormatting.insert(.prettyPrinted) }
    return encoder
  }

  static func decoder() -> JSONDecoder {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return decoder
  }
}
