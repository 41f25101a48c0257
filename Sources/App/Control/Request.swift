import NIOHTTP1

/// What a client asks for: `GET /v1/history?tuner=neigh`.
struct Request: Sendable {
  /// Nothing but GET and HEAD reads; POST alone changes.
  let method: HTTPMethod
  /// `["v1", "history"]`.
  let path: [String]
  private let query: [String: String]
  /// It said that it takes OpenMetrics.
  let acceptsOpenMetrics: Bool

  /// Nil when the target is no path, or not in UTF-8 after decoding.
  init?(method: HTTPMethod, target: String, accept: String = "") {
    guard target.hasPrefix("/") else { return nil }
    let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    var path: [String] = []
    for part in parts[0].split(separator: "/") {
      guard let text = Self.decode(part) else { return nil }
      path.append(text)
    }
    var query: [String: String] = [:]
    for pair in parts.dropFirst().first?.split(separator: "&") ?? [] {
      let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard let key = Self.decode(sides[0]), let value = Self.decode(sides.dropFirst().first ?? "")
      else { return nil }
      query[key] = value
    }
    self.method = method
    acceptsOpenMetrics = accept.contains("application/openmetrics-text")
    self.path = path
    self.query = query
  }

  /// An argument of the query; nil when it is not there or empty.
  subscript(key: String) -> String? {
    guard let value = query[key], !value.isEmpty else { return nil }
    return value
  }

  /// The keys that nobody asked for are a mistake of the client's.
  func unknownKey(besides known: [String]) -> String? {
    query.keys.sorted().first { !known.contains($0) }
  }

  /// Undoes percent-encoding (RFC 3986).
  private static func decode(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte == UInt8(ascii: "+") ? UInt8(ascii: " ") : byte)
        continue
      }
      guard let high = rest.popFirst(), let low = rest.popFirst(),
        let value = UInt8(String(decoding: [high, low], as: UTF8.self), radix: 16)
      else { return nil }
      bytes.append(value)
    }
    return String(validating: bytes, as: UTF8.self)
  }

  /// Encodes a value for a query.
  static func encode(_ text: String) -> String {
    var encoded = ""
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
        UInt8(ascii: "_"), UInt8(ascii: "~"):
        encoded.unicodeScalars.append(Unicode.Scalar(byte))
      default:
        encoded += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
      }
    }
    return encoded
  }
}
