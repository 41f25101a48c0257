import Foundation
import TestSupport

/// A host and, behind a bridge, a network of 30,000 addresses. The host's device
/// is a VLAN where this kernel has those; where it has not, it is named like one.
struct BridgedPair {
  let host: TestNamespace
  let hasVLAN: Bool
  private let bridge: TestNamespace
  private let network: TestNamespace

  init() async throws {
    host = try await TestNamespace("host")
    bridge = try await TestNamespace("bridge")
    network = try await TestNamespace("network")
    try await execute("ip", "link", "add", "br0", "type", "bridge", netns: bridge.name)
    try await execute("ip", "link", "set", "br0", "up", netns: bridge.name)
    hasVLAN = try await Self.link(host, tagged: "h0.7", to: bridge)
    if !hasVLAN { try await Self.link(host, "h0.7", to: bridge) }
    try await Self.link(network, "n0", to: bridge)
    try await execute("ip", "addr", "add", "10.7.200.1/16", "dev", "h0.7", netns: host.name)
    try await execute("ip", "addr", "add", "10.7.200.2/16", "dev", "n0", netns: network.name)
    try await execute(
      "ip", "route", "add", "local", "10.7.0.0/17", "dev", "lo", netns: network.name)
  }

  /// A device at that end whose other one is a port of the bridge.
  private static func link(
    _ end: TestNamespace, _ device: String, to bridge: TestNamespace
  ) async throws {
    try await connect(end, device, to: bridge)
    try await execute(
      "ip", "link", "set", "p-\(device)", "master", "br0", "up", netns: bridge.name)
  }

  /// The same with VLAN 7 in between; false when this kernel has no VLANs.
  private static func link(
    _ end: TestNamespace, tagged device: String, to bridge: TestNamespace
  ) async throws -> Bool {
    try await connect(end, "h0", to: bridge)
    for (link, name, namespace) in [("h0", device, end), ("p-h0", "p-\(device)", bridge)] {
      do {
        try await execute(
          "ip", "link", "add", "link", link, "name", name, "type", "vlan", "id", "7",
          netns: namespace.name)
      } catch let failure as Command.Failure where "\(failure)".contains("Unknown device type") {
        try await execute("ip", "link", "del", "h0", netns: end.name)
        return false
      }
      try await execute("ip", "link", "set", link, "up", netns: namespace.name)
      try await execute("ip", "link", "set", name, "up", netns: namespace.name)
    }
    try await execute("ip", "link", "set", "p-\(device)", "master", "br0", netns: bridge.name)
    return true
  }

  private static func connect(
    _ end: TestNamespace, _ device: String, to bridge: TestNamespace
  ) async throws {
    try await execute(
      "ip", "link", "add", "p-\(device)", "type", "veth", "peer", "name", device, "netns",
      end.name ?? "", netns: bridge.name)
    try await execute("ip", "link", "set", device, "up", netns: end.name)
  }

  func delete() async {
    for namespace in [host, network, bridge] { await namespace.delete() }
  }

  /// Has the host forget its neighbours.
  func forget() async throws {
    try await execute("ip", "neigh", "flush", "dev", "h0.7", netns: host.name)
    try await execute("ip", "link", "set", "h0.7", "down", netns: host.name)
    try await execute("ip", "link", "set", "h0.7", "up", netns: host.name)
    try await Neighbours.empty()
  }

  private static func address(_ index: Int) -> in_addr {
    in_addr(s_addr: (UInt32(0x0a07_0000) + 256 + UInt32(index)).bigEndian)
  }

  private static func datagramSocket() -> Int32 {
    let fd = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var size: Int32 = 64 << 20
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, 4)
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, 4)
    return fd
  }

  private static func withAddress<R>(
    _ address: in_addr, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R
  ) -> R {
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_port = UInt16(7007).bigEndian
    name.sin_addr = address
    return withUnsafePointer(to: &name) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
  }

  /// Sends a datagram to each of so many addresses; how many arrived.
  func send(to count: Int) async throws -> Int {
    try await arrived(of: count) { try await send(count) { $0 } }
  }

  /// Sends so many datagrams to one address while nothing comes through to who
  /// has it, so that they wait until it is asked for again, after a second; how
  /// many arrived.
  func sendUnanswered(_ count: Int, to index: Int) async throws -> Int {
    try await arrived(of: count) {
      try await forward(false)
      let sender = try await send(count) { _ in index }
      try await Task.sleep(for: .milliseconds(100))
      try await forward(true)
      return sender
    }
  }

  /// Sends so many datagrams to an address that nobody has.
  func sendToNobody(_ count: Int) async throws {
    close(try await send(count) { _ in 40_000 })
  }

  /// Whether the network's port belongs to the bridge.
  private func forward(_ forwards: Bool) async throws {
    if forwards {
      try await execute("ip", "link", "set", "p-n0", "master", "br0", netns: bridge.name)
    } else {
      try await execute("ip", "link", "set", "p-n0", "nomaster", netns: bridge.name)
    }
  }

  /// A socket that has sent so many datagrams, each with its number.
  private func send(_ count: Int, to index: @escaping @Sendable (Int) -> Int) async throws -> Int32
  {
    try await host.inside { () -> Int32 in
      let fd = Self.datagramSocket()
      for number in 0..<count {
        var text = UInt32(number)
        _ = Self.withAddress(Self.address(index(number))) {
          sendto(fd, &text, 4, Int32(MSG_DONTWAIT), $0, $1)
        }
      }
      return fd
    }
  }

  /// How many different ones of so many datagrams arrive, sent by what gives a
  /// socket.
  private func arrived(of count: Int, by send: () async throws -> Int32) async throws -> Int {
    let receiver = try await network.inside { () -> Int32 in
      let fd = Self.datagramSocket()
      return Self.withAddress(in_addr(s_addr: 0)) { bind(fd, $0, $1) } == 0 ? fd : -1
    }
    defer { close(receiver) }
    let sender = try await send()
    defer { close(sender) }
    var arrived: Set<UInt32> = []
    var quiet = 0
    while quiet < 15, arrived.count < count {
      var index: UInt32 = 0
      if recv(receiver, &index, 4, Int32(MSG_DONTWAIT)) == 4 {
        arrived.insert(index)
        quiet = 0
      } else {
        quiet += 1
        try await Task.sleep(for: .milliseconds(100))
      }
    }
    return arrived.count
  }

  /// Announces so many addresses by gratuitous ARP.
  func announce(_ count: Int, from first: Int) async throws {
    let sent = try await network.inside { () -> Int in
      let protocolNumber = UInt16(0x0806).bigEndian
      let fd = socket(AF_PACKET, Int32(SOCK_RAW.rawValue), Int32(protocolNumber))
      defer { close(fd) }
      // struct sockaddr_ll of linux/if_packet.h: family, protocol, interface.
      var name = [UInt8](repeating: 0, count: 20)
      name.withUnsafeMutableBytes {
        $0.storeBytes(of: UInt16(AF_PACKET), as: UInt16.self)
        $0.storeBytes(of: protocolNumber, toByteOffset: 2, as: UInt16.self)
        $0.storeBytes(of: Int32(if_nametoindex("n0")), toByteOffset: 4, as: Int32.self)
      }
      return (first..<first + count).count { index in
        let address = withUnsafeBytes(of: Self.address(index).s_addr) { Array($0) }
        let link: [UInt8] = [2, 7, 0, 0, UInt8(index >> 8 & 255), UInt8(index & 255)]
        let all: [UInt8] = [255, 255, 255, 255, 255, 255]
        // Ethernet; then ARP: a request for the sender's own address.
        let frame =
          all + link + [8, 6] + [0, 1, 8, 0, 6, 4, 0, 1] + link + address + all + address
        return name.withUnsafeBytes {
          sendto(
            fd, frame, frame.count, 0, $0.baseAddress?.assumingMemoryBound(to: sockaddr.self),
            socklen_t($0.count))
        } == frame.count
      }
    }
    guard sent == count else { throw Command.Failure("announced \(sent) of \(count)") }
  }
}
