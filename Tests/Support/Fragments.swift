import Foundation

/// Sends fragments of datagrams that never become whole, from the namespace of
/// the calling thread.
public struct FragmentFlood {
  private let fd: Int32

  public init() throws {
    fd = socket(AF_INET, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 255)
    guard fd >= 0 else { throw Command.Failure("no raw socket") }
  }

  /// The first fragment of so many datagrams, of `size` bytes each; or of ten
  /// fragments those with these numbers.
  public func send(
    _ count: Int, to address: String, from source: String, size: Int = 1400,
    fragments: [Int] = [0]
  ) {
    var packet = [UInt8](repeating: 0, count: 20 + size & ~7)
    packet[0] = 0x45
    packet[8] = 64
    packet[9] = 17
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    inet_pton(AF_INET, address, &name.sin_addr)
    var from = in_addr()
    inet_pton(AF_INET, source, &from)
    withUnsafeBytes(of: from) { packet.replaceSubrange(12..<16, with: $0) }
    withUnsafeBytes(of: name.sin_addr) { packet.replaceSubrange(16..<20, with: $0) }
    for number in 0..<count {
      packet[4] = UInt8(number >> 8 & 255)
      packet[5] = UInt8(number & 255)
      for fragment in fragments {
        let offset = fragment * (size / 8)
        packet[6] = UInt8(offset >> 8) | (fragment == 9 ? 0 : 0x20)  // more to come
        packet[7] = UInt8(offset & 255)
        _ = withUnsafePointer(to: &name) { pointer in
          pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            sendto(fd, packet, packet.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
          }
        }
      }
    }
  }

  public func end() { close(fd) }
}
