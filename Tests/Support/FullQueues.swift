import CShims
import Foundation

/// Connections on the loopback device of a namespace whose reader does not read,
/// so that what is sent stays in their queues.
public final class FullQueues: Sendable {
  private struct Pair: Sendable {
    let sender: Int32
    let receiver: Int32
    /// Bytes that the kernel took.
    let sent: Int
  }

  private let pairs: [Pair]
  /// How many connections there are.
  public var count: Int { pairs.count }
  /// Bytes that the kernel took.
  public var sent: Int { pairs.reduce(0) { $0 + $1.sent } }

  /// Opens `count` connections and sends up to `bytes` on each, as much as its
  /// send buffer takes without waiting for the reader.
  public init(in namespace: TestNamespace, count: Int, bytes: Int) async throws {
    let made = try await namespace.inside { Self.connect(count) }
    guard made.count == count else {
      for (sender, receiver) in made {
        Glibc.close(sender)
        Glibc.close(receiver)
      }
      throw Command.Failure("\(made.count) of \(count) connections")
    }
    pairs = made.map { sender, receiver in
      Pair(sender: sender, receiver: receiver, sent: Self.fill(sender, bytes))
    }
  }

  deinit {
    for pair in pairs {
      Glibc.close(pair.sender)
      Glibc.close(pair.receiver)
    }
  }

  private static func connect(_ count: Int) -> [(Int32, Int32)] {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { Glibc.close(listener) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(INADDR_LOOPBACK).bigEndian
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    func with(_ body: (UnsafeMutablePointer<sockaddr>) -> Int32) -> Int32 {
      withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body)
      }
    }
    let length = size
    guard with({ bind(listener, $0, length) }) == 0, listen(listener, 16) == 0,
      with({ getsockname(listener, $0, &size) }) == 0
    else { return [] }
    var made: [(Int32, Int32)] = []
    for _ in 0..<count {
      let sender = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
      guard with({ Glibc.connect(sender, $0, length) }) == 0 else { return made }
      made.append((sender, accept(listener, nil, nil)))
    }
    return made
  }

  private static func fill(_ sender: Int32, _ bytes: Int) -> Int {
    _ = fcntl(sender, F_SETFL, O_NONBLOCK)
    let chunk = [UInt8](repeating: 0, count: 65536)
    var sent = 0
    while sent < bytes {
      let count = send(sender, chunk, min(chunk.count, bytes - sent), Int32(MSG_NOSIGNAL))
      if count <= 0 { break }
      sent += count
    }
    return sent
  }

  /// Ends the senders' side as close(2) of the last descriptor does: the kernel
  /// goes on sending what is in the queues.
  public func closeSenders() {
    // The numbers stay taken, so that `deinit` closes nothing of others.
    let null = open("/dev/null", O_RDWR | O_CLOEXEC)
    defer { Glibc.close(null) }
    for pair in pairs { dup2(null, pair.sender) }
  }

  /// Reads everything that arrives, after `closeSenders()`; how many connections
  /// brought all that the kernel had taken for them.
  public func drain() async -> Int {
    await withCheckedContinuation { continuation in
      Thread.detachNewThread { [pairs] in
        var whole = 0
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        for pair in pairs {
          var timeout = timeval(tv_sec: 10, tv_usec: 0)
          setsockopt(
            pair.receiver, SOL_SOCKET, SO_RCVTIMEO, &timeout,
            socklen_t(MemoryLayout<timeval>.size))
          var got = 0
          var end = recv(pair.receiver, &buffer, buffer.count, 0)
          while end > 0 {
            got += end
            end = recv(pair.receiver, &buffer, buffer.count, 0)
          }
          if end == 0, got == pair.sent { whole += 1 }
        }
        continuation.resume(returning: whole)
      }
    }
  }
}

/// TCP's memory account.
public enum TCPAccount {
  /// Pages that all TCP sockets of the machine hold.
  public static func pages() throws -> Int { try number("mem") }
  /// Connections that no process holds any more.
  public static func orphans() throws -> Int { try number("orphan") }

  private static func number(_ label: String) throws -> Int {
    let text = try String(contentsOfFile: "/proc/net/sockstat", encoding: .utf8)
    let words = (text.split(separator: "\n").first { $0.hasPrefix("TCP:") } ?? "")
      .split(separator: " ")
    guard let index = words.firstIndex(where: { $0 == label }), index + 1 < words.count,
      let number = Int(words[index + 1])
    else { throw Command.Failure("no \(label) in \(text)") }
    return number
  }

  /// A counter of `TcpExt` in /proc/net/netstat of the namespace.
  public static func counter(_ name: String, in namespace: TestNamespace) async throws -> Int {
    let text = try await execute("cat", "/proc/net/netstat", netns: namespace.name)
    let lines = text.split(separator: "\n").filter { $0.hasPrefix("TcpExt:") }
      .map { $0.split(separator: " ") }
    guard lines.count == 2, let index = lines[0].firstIndex(where: { $0 == name }),
      let number = Int(lines[1][index])
    else { throw Command.Failure("no \(name)") }
    return number
  }
}
