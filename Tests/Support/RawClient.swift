import CShims
import Foundation

/// A client of the control socket that need not behave.
public final class RawClient: Sendable {
  public static let path = "/run/bpftune/bpftune.sock"
  private let fd: Int32

  /// Nil when it may not connect.
  public init?() {
    fd = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(Self.path.utf8)) }
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(fd, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard fd >= 0, result == 0 else {
      if fd >= 0 { close(fd) }
      return nil
    }
    var limit = timeval(tv_sec: 30, tv_usec: 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(fd) }

  /// How many bytes went out.
  @discardableResult
  public func send(_ bytes: some Collection<UInt8>) -> Int {
    let bytes = Array(bytes)
    return Glibc.send(fd, bytes, bytes.count, Int32(MSG_NOSIGNAL))
  }

  public func send(_ text: String) { send(text.utf8) }

  /// No more will be sent; answers may still come.
  public func finish() { shutdown(fd, Int32(SHUT_WR)) }

  /// Up to `most` bytes, or until the other side ends.
  public func receive(most: Int = 1 << 20) -> String {
    var all: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while all.count < most, case let count = recv(fd, &chunk, min(chunk.count, most - all.count), 0),
      count > 0
    {
      all += chunk[..<count]
    }
    return String(decoding: all, as: UTF8.self)
  }

  /// One request and its answer, its head too.
  public static func ask(_ target: String, method: String = "GET") -> String? {
    guard let client = RawClient() else { return nil }
    client.send("\(method) \(target) HTTP/1.0\r\n\r\n")
    return client.receive()
  }
}
