import Foundation

/// Listeners, bursts of connections and floods, by the program tcp-load.
public enum TCPLoad {
  private static var program: String { Products.path("tcp-load") }

  /// A listener that accepts `each` connections (0: all that wait) every `pause`
  /// milliseconds, until it is let go. On SIGHUP it calls listen() again.
  public static func server(
    in namespace: TestNamespace, port: Int, backlog: Int, pause: Int, each: Int = 0
  ) async throws -> Command {
    let server = try Command(
      [program, "serve", "\(port)", "\(backlog)", "\(pause)", "\(each)"], netns: namespace.name)
    try await server.line(containing: "listening")
    return server
  }

  /// So many connections at once; how many were established.
  @discardableResult
  public static func burst(
    from namespace: TestNamespace, to address: String, port: Int, count: Int
  ) async throws -> Int {
    let output = try await execute(
      program, "burst", address, "\(port)", "\(count)", netns: namespace.name, upTo: 40)
    return Int(output.split(separator: " ").last ?? "") ?? -1
  }

  /// SYNs that nobody stands behind, so many a second, from a /16.
  public static func flood(
    in namespace: TestNamespace, from prefix: String, to address: String, port: Int, count: Int,
    rate: Int
  ) throws -> Command {
    try Command(
      [program, "flood", prefix, address, "\(port)", "\(count)", "\(rate)"],
      netns: namespace.name)
  }

  /// A service that sends so many bytes on each connection; `sendBuffer` is what
  /// it asks for with SO_SNDBUF.
  public static func responder(
    in namespace: TestNamespace, port: Int, bytes: Int, sendBuffer: Int? = nil
  ) async throws -> Command {
    let server = try Command(
      [program, "respond", "\(port)", "\(bytes)"] + (sendBuffer.map { ["\($0)"] } ?? []),
      netns: namespace.name)
    try await server.line(containing: "listening")
    return server
  }

  /// So many connections to such a service, each read to its end; how often a
  /// receive buffer was seen to have grown.
  @discardableResult
  public static func request(
    from namespace: TestNamespace, to address: String, port: Int, count: Int,
    receiveBuffer: Int? = nil
  ) async throws -> Int {
    let client = try Command(
      [program, "request", address, "\(port)", "\(count)"]
        + (receiveBuffer.map { ["\($0)"] } ?? []), netns: namespace.name)
    let status = try await client.wait(upTo: 60)
    guard status == 0, client.output.hasPrefix("done \(count) ") else {
      throw Command.Failure("tcp-load request: exit \(status): \(client.output)")
    }
    return Int(client.output.split(separator: " ").last ?? "") ?? -1
  }

  /// A service that answers each byte with so many, on one connection at a time.
  public static func answerer(
    in namespace: TestNamespace, port: Int, bytes: Int
  ) async throws -> Command {
    let server = try Command(
      [program, "answer", "\(port)", "\(bytes)"], netns: namespace.name)
    try await server.line(containing: "listening")
    return server
  }

  /// Asks such a service so often, on one connection.
  public static func asking(
    from namespace: TestNamespace, to address: String, port: Int, count: Int, bytes: Int
  ) throws -> Command {
    try Command(
      [program, "ask", address, "\(port)", "\(count)", "\(bytes)"], netns: namespace.name)
  }

  /// The same until it is done: the mean time to a complete answer, in milliseconds.
  public static func ask(
    from namespace: TestNamespace, to address: String, port: Int, count: Int, bytes: Int
  ) async throws -> Double {
    let asking = try asking(
      from: namespace, to: address, port: port, count: count, bytes: bytes)
    let status = try await asking.wait(upTo: 120)
    guard status == 0,
      let mean = Double(asking.output.split(whereSeparator: \.isWhitespace).last ?? "")
    else { throw Command.Failure("tcp-load ask: exit \(status): \(asking.output)") }
    return mean / 1000
  }

  /// A counter of /proc/net/netstat of the namespace: `ListenDrops`.
  public static func counter(_ name: String, in namespace: TestNamespace) async throws -> Int {
    let text = try await execute("cat", "/proc/net/netstat", netns: namespace.name)
    let lines = text.split(separator: "\n").map { $0.split(separator: " ") }
    for (names, values) in zip(lines, lines.dropFirst()) {
      if let column = names.firstIndex(where: { $0 == name }) { return Int(values[column]) ?? -1 }
    }
    throw Command.Failure("no \(name) in /proc/net/netstat")
  }
}
