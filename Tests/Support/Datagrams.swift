import Foundation

/// A UDP socket of a test's own, made in the namespace of the calling
/// thread.
public final class DatagramSocket {
  private let fd: Int32

  /// `receiveBuffer` is what SO_RCVBUF asks for. Port 0 for any.
  public init(port: UInt16 = 0, receiveBuffer: Int32? = nil, family: Int32 = AF_INET) throws {
    fd = socket(family, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard fd >= 0 else { throw Command.Failure("no socket") }
    var (yes, size) = (Int32(1), receiveBuffer ?? 0)
    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &yes, 4)
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, 4)
    if receiveBuffer != nil { setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, 4) }
    let bound = Self.withAddress(family == AF_INET ? "0.0.0.0" : "::", port) { bind(fd, $0, $1) }
    guard bound == 0 else { throw Command.Failure("cannot bind to port \(port)") }
  }

  deinit { close(fd) }

  /// Sends so many, one after another; how many the kernel took.
  @discardableResult
  public func send(_ count: Int, to address: String = "127.0.0.1", _ port: UInt16, size: Int = 100)
    -> Int
  {
    let data = [UInt8](repeating: 7, count: size)
    return Self.withAddress(address, port) { to, length in
      (0..<count).count { _ in sendto(fd, data, data.count, 0, to, length) == data.count }
    }
  }

  /// Reads all that is there, up to `most`; how many.
  @discardableResult
  public func drain(most: Int = .max) -> Int {
    var count = 0
    var buffer = [UInt8](repeating: 0, count: 65536)
    while count < most, recv(fd, &buffer, buffer.count, Int32(MSG_DONTWAIT)) >= 0 {
      count += 1
    }
    return count
  }

  /// Reads all that is there; whom each is from.
  public func senders() -> [sockaddr_in] {
    var senders: [sockaddr_in] = []
    var byte: UInt8 = 0
    while true {
      var sender = sockaddr_in()
      var length = socklen_t(MemoryLayout<sockaddr_in>.size)
      let count = withUnsafeMutablePointer(to: &sender) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          recvfrom(fd, &byte, 1, Int32(MSG_DONTWAIT), $0, &length)
        }
      }
      guard count >= 0 else { return senders }
      senders.append(sender)
    }
  }

  /// Sends one; whether the kernel took it.
  @discardableResult
  public func answer(_ sender: sockaddr_in) -> Bool {
    var byte: UInt8 = 7
    return withUnsafePointer(to: sender) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        sendto(fd, &byte, 1, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 1
      }
    }
  }

  private static func withAddress<R>(
    _ text: String, _ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R
  ) -> R {
    var storage = sockaddr_storage()
    var (four, six) = (sockaddr_in(), sockaddr_in6())
    let length: Int
    if inet_pton(AF_INET, text, &four.sin_addr) == 1 {
      four.sin_family = sa_family_t(AF_INET)
      four.sin_port = port.bigEndian
      length = MemoryLayout.size(ofValue: four)
      memcpy(&storage, &four, length)
    } else {
      inet_pton(AF_INET6, text, &six.sin6_addr)
      six.sin6_family = sa_family_t(AF_INET6)
      six.sin6_port = port.bigEndian
      length = MemoryLayout.size(ofValue: six)
      memcpy(&storage, &six, length)
    }
    return withUnsafePointer(to: &storage) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(length)) }
    }
  }
}

extension TestNamespace {
  /// A counter of /proc/net/snmp here, such as `Udp` and `RcvbufErrors`.
  public func counter(_ group: String, _ name: String) async throws -> Int {
    let text = try await execute("cat", "/proc/net/snmp", netns: self.name)
    let lines = text.split(separator: "\n").filter { $0.hasPrefix("\(group): ") }
      .map { $0.split(separator: " ") }
    guard lines.count == 2, let column = lines[0].firstIndex(where: { $0 == name }),
      let value = Int(lines[1][column])
    else { throw Command.Failure("no \(name) of \(group) in /proc/net/snmp") }
    return value
  }
}
