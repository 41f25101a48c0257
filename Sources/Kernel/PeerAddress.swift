import Glibc

/// An address of 16 bytes, as events carry it; IPv4 as `::ffff:a.b.c.d`.
public struct PeerAddress: Hashable, Sendable, CustomStringConvertible {
  /// The first and the last eight bytes, in network byte order.
  public let high: Int64
  public let low: Int64

  public init(high: Int64, low: Int64) {
    self.high = high
    self.low = low
  }

  public var isIPv4: Bool { high == 0 && Int32(truncatingIfNeeded: low).byteSwapped == 0xffff }

  public var description: String {
    withUnsafeBytes(of: (high, low)) { bytes in
      let mapped = bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10] == 0xff && bytes[11] == 0xff
      var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
      if mapped {
        inet_ntop(AF_INET, bytes.baseAddress! + 12, &text, socklen_t(text.count))
      } else {
        inet_ntop(AF_INET6, bytes.baseAddress!, &text, socklen_t(text.count))
      }
      return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self)
    }
  }
}
