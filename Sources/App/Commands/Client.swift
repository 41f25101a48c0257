import FoundationEssentials
import Glibc

/// Asks the daemon that runs, over its socket; waits for the answer.
struct Client {
  /// EX_UNAVAILABLE of sysexits.h.
  static let noDaemon = Failure(
    "no daemon runs (nothing listens on \(ControlSocket.path)); start it with"
      + " \"systemctl start bpftune\", or try it with \"bpftune --foreground --dry-run\"",
    exit: .init(69))

  /// An answer as it comes: its head has been read.
  final class Stream {
    let descriptor: Int32
    private var buffer: [UInt8] = []

    fileprivate init() throws {
      descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      guard descriptor >= 0 else {
        throw Failure("cannot open a socket: \(errorText())", exit: .failure)
      }
      var address = sockaddr_un()
      address.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &address.sun_path) {
        $0.copyBytes(from: Array(ControlSocket.path.utf8))
      }
      let result = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
      guard result == 0 else {
        switch errno {
        case ENOENT, ECONNREFUSED: throw Client.noDaemon
        case EACCES, EPERM:
          throw Failure(
            "may not ask the daemon: be root (sudo) or a member of group \(ControlSocket.groupName)",
            exit: Failure.noPermission)
        default:
          throw Failure("cannot connect to \(ControlSocket.path): \(errorText())", exit: .failure)
        }
      }
    }

    deinit { close(descriptor) }

    fileprivate func write(_ text: String) {
      var text = text
      // The daemon says by its answer, or by ending, what came of it.
      text.withUTF8 { _ = send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }

    /// The next line without its end; nil after the last.
    func line() throws -> String? {
      while true {
        if let end = buffer.firstIndex(of: UInt8(ascii: "\n")) {
          defer { buffer.removeFirst(end + 1) }
          return String(decoding: buffer[..<end], as: UTF8.self)
        }
        guard try more() else { return nil }
      }
    }

    /// A line, if one has come already.
    func lineThatIsThere() -> String? {
      guard buffer.contains(UInt8(ascii: "\n")) else { return nil }
      return try? line()
    }

    /// All that is left.
    fileprivate func rest() throws -> [UInt8] {
      while try more() {}
      return buffer
    }

    /// Waits for more; false at the end.
    @discardableResult
    func more() throws -> Bool {
      let capacity = 64 * 1024
      let count = withUnsafeTemporaryAllocation(of: UInt8.self, capacity: capacity) { chunk in
        let count = recv(descriptor, chunk.baseAddress, capacity, 0)
        if count > 0 { buffer += chunk[..<count] }
        return count
      }
      if count < 0, errno != ECONNRESET {
        if errno == EINTR { return true }
        throw Failure("no answer from the daemon: \(errorText())", exit: .failure)
      }
      return count > 0
    }
  }

  // MARK: Asking

  func get<R: Decodable>(_ path: String, _ query: [String: String?] = [:]) throws -> R {
    try ask("GET", path, query)
  }

  func post<R: Decodable>(_ path: String, _ query: [String: String?] = [:]) throws -> R {
    try ask("POST", path, query)
  }

  /// An answer without end, line by line.
  func stream(_ path: String) throws -> Stream { try open("GET", path, [:]).stream }

  private func ask<R: Decodable>(
    _ method: String, _ path: String, _ query: [String: String?]
  ) throws -> R {
    let (status, stream) = try open(method, path, query)
    let body = try stream.rest()
    guard status == 200 else { throw failure(status, body) }
    let data = Data(body)
    let schema = try? JSON.decoder().decode(Schema.self, from: data).schema
    if schema == Reply.schema, let reply = try? JSON.decoder().decode(R.self, from: data) {
      return reply
    }
    throw Failure(
      "the daemon's answer is not understood: it is of another version (this is"
        + " \(Bpftune.version), schema \(Reply.schema); the answer has"
        + " \(schema.map { "schema \($0)" } ?? "none")); \"systemctl restart bpftune\" starts"
        + " the one that is installed", exit: .failure)
  }

  private struct Schema: Decodable {
    let schema: Int
  }

  private func open(
    _ method: String, _ path: String, _ query: [String: String?]
  ) throws -> (status: Int, stream: Stream) {
    let stream = try Stream()
    let pairs = query.sorted { $0.key < $1.key }.compactMap { key, value in
      value.map { "\(key)=\(Request.encode($0))" }
    }
    let target = pairs.isEmpty ? path : path + "?" + pairs.joined(separator: "&")
    stream.write("\(method) \(target) HTTP/1.0\r\nHost: bpftune\r\n\r\n")
    let first = try stream.line() ?? ""
    // HTTP/1.0 200 OK
    let words = first.split(separator: " ")
    guard words.count > 1, words[0].hasPrefix("HTTP/"), let status = Int(words[1]) else {
      throw Failure("the daemon ended the connection without an answer", exit: .failure)
    }
    while let line = try stream.line(), line != "\r", line != "" {}
    return (status, stream)
  }

  private func failure(_ status: Int, _ body: [UInt8]) -> Failure {
    let problem = try? JSON.decoder().decode(Reply.Problem.self, from: Data(body))
    let text = problem?.error ?? "the daemon answered with status \(status)"
    return Failure(text, exit: status == 403 ? Failure.noPermission : .failure)
  }
}
