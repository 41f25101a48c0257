import Foundation

extension TestNamespace {
  /// How many of so many multicast groups a new socket may join here, trying each
  /// so often, 20 ms apart; ten times, and more on a slow machine.
  public func join(groups count: Int, attempts: Int? = nil) async throws -> Int {
    let attempts = attempts ?? Int(10 * patience)
    return try await inside {
      let fd = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      defer { close(fd) }
      var joined = 0
      for index in 1...count {
        var request = ip_mreq()
        request.imr_multiaddr.s_addr = UInt32(0xef01_0000 + index).bigEndian
        request.imr_interface.s_addr = UInt32(0x7f00_0001).bigEndian
        for attempt in 0..<attempts {
          if attempt > 0 { usleep(20_000) }
          let length = socklen_t(MemoryLayout<ip_mreq>.size)
          if setsockopt(fd, Int32(IPPROTO_IP), IP_ADD_MEMBERSHIP, &request, length) == 0 {
            joined += 1
            break
          }
        }
      }
      return joined
    }
  }

  /// Whether a new socket may filter so many sources of a multicast group here.
  public func filter(sources count: Int, attempts: Int? = nil) async throws -> Bool {
    let attempts = attempts ?? Int(10 * patience)
    return try await inside {
      let fd = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      defer { close(fd) }
      let group = UInt32(0xef01_0001).bigEndian
      let loopback = UInt32(0x7f00_0001).bigEndian
      var request = ip_mreq()
      request.imr_multiaddr.s_addr = group
      request.imr_interface.s_addr = loopback
      let length = socklen_t(MemoryLayout<ip_mreq>.size)
      guard setsockopt(fd, Int32(IPPROTO_IP), IP_ADD_MEMBERSHIP, &request, length) == 0 else {
        return false
      }
      // struct ip_msfilter: the group, the interface, MCAST_INCLUDE or _EXCLUDE, and
      // the sources with their number before them.
      let exclude: UInt32 = 0
      var filter = [group, loopback, exclude, UInt32(count)]
      filter += (1...count).map { UInt32(0x0a00_0000 + $0).bigEndian }
      for attempt in 0..<attempts {
        if attempt > 0 { usleep(20_000) }
        let size = socklen_t(filter.count * 4)
        if setsockopt(fd, Int32(IPPROTO_IP), IP_MSFILTER, filter, size) == 0 { return true }
      }
      return false
    }
  }
}
