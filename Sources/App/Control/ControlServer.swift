import Glibc
import Kernel
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix

/// Serves the local socket, and metrics over TCP where that is asked for, on one
/// thread of its own beside the kernel loop. The thread sleeps while no client is
/// there.
final class ControlServer: @unchecked Sendable {
  // Safe: what changes is touched on `eventLoop` alone.

  /// What a client asks for, and where the answer goes.
  struct Call: Sendable {
    let request: Request
    let peer: Peer
    let client: NIOLoopBound<Connection>
  }

  let eventLoop: any EventLoop
  /// Calls in their order. A client has one at a time, so it is bounded.
  let calls: AsyncStream<Call>
  private let call: AsyncStream<Call>.Continuation
  private let group: MultiThreadedEventLoopGroup
  private let log: Logger
  private var listeners: [any Channel] = []
  private var clients: [ObjectIdentifier: any Channel] = [:]
  private var watchers: [ObjectIdentifier: Connection] = [:]
  private var scrapers = 0
  /// The most clients at once since memory was given back.
  private var mostClients = 0
  /// Bytes of answers that wait for their readers.
  var unread = 0

  init(log: Logger) {
    group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    eventLoop = group.next()
    (calls, call) = AsyncStream.makeStream()
    self.log = log
  }

  // MARK: Start and stop

  /// Listens on the local socket; before it returns, clients can connect.
  func listenLocally() throws {
    let group = ControlSocket.group()
    let fd = try ControlSocket.open(group: group)
    let listener = try bootstrap { [self] channel in
      let peer = try channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
        of: NIOBSDSocket.Handle.self
      ) { Peer(descriptor: $0, group: group) }
      guard let peer = peer.flatMap({ $0 }) else { return .refuse("503 Service Unavailable") }
      guard clients.count < (peer.user == 0 ? Limits.clients : Limits.clientsButRoot) else {
        return .refuse("503 Service Unavailable")
      }
      clients[ObjectIdentifier(channel)] = channel
      mostClients = max(mostClients, clients.count)
      return .take(peer)
    }.withBoundSocket(fd).wait()
    eventLoop.execute { self.listeners.append(listener) }
  }

  /// Serves metrics to whoever connects; where, also when port 0 was asked for.
  func listen(on address: MetricsAddress) throws -> String {
    let bootstrap = bootstrap { [self] channel in
      guard scrapers < Limits.scrapers else { return .refuse("503 Service Unavailable") }
      scrapers += 1
      channel.closeFuture.assumeIsolated().whenComplete { _ in self.scrapers -= 1 }
      return .take(.scraper)
    }
    let listener: any Channel
    do {
      // An address, not a name: nothing here asks a resolver.
      listener = try bootstrap.bind(
        to: SocketAddress(ipAddress: address.host, port: address.port)
      ).wait()
    } catch {
      throw Failure("cannot serve metrics at \(address): \(error)", exit: .failure)
    }
    eventLoop.execute { self.listeners.append(listener) }
    let port = listener.localAddress?.port ?? address.port
    return "http://\(address.with(port: port))/metrics"
  }

  /// Once it listens. Its thread talks to whoever asks, and needs no privilege.
  func giveUpPrivileges() throws {
    try eventLoop.submit { try Privileges.giveUp(allBut: []) }.wait()
  }

  private enum Welcome {
    case take(Peer)
    case refuse(String)
  }

  private func bootstrap(
    _ welcome: @escaping @Sendable (any Channel) throws -> Welcome
  ) -> ServerBootstrap {
    ServerBootstrap(group: group)
      .serverChannelOption(.backlog, value: 256)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelOption(.maxMessagesPerRead, value: 1)
      .childChannelOption(.socketOption(.so_sndbuf), value: 256 * 1024)
      .childChannelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 2048))
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try self.set(up: channel, welcome(channel)) }
      }
  }

  private func set(up channel: any Channel, _ welcome: Welcome) throws {
    switch welcome {
    case .refuse(let status):
      let text = RequestSize.refusal(status, "too many clients")
      channel.writeAndFlush(text).assumeIsolated().whenComplete { _ in
        channel.close(promise: nil)
      }
    case .take(let peer):
      let size = RequestSize()
      let pipeline = channel.pipeline.syncOperations
      try pipeline.addHandler(size)
      try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: true)
      try pipeline.addHandler(Connection(peer, server: self, size: size))
      let id = ObjectIdentifier(channel)
      channel.closeFuture.assumeIsolated().whenComplete { _ in
        self.clients[id] = nil
        if self.clients.isEmpty { self.tidyUp() }
      }
    }
  }

  /// A crowd takes megabytes, which the allocator would keep.
  private func tidyUp() {
    guard mostClients > Limits.crowd else { return }
    mostClients = 0
    eventLoop.assumeIsolated().scheduleTask(in: .seconds(1)) { Memory.giveBackFreed() }
  }

  /// Ends it before it has served anybody.
  func abandon() {
    try? group.syncShutdownGracefully()
    unlink(ControlSocket.path)
  }

  /// Takes no more calls; those that wait are answered yet.
  func finish() { call.finish() }

  /// Closes all connections and ends the thread. Nothing may be left that runs
  /// on it.
  func stop() async {
    eventLoop.execute { [self] in
      for listener in listeners { listener.close(promise: nil) }
      for client in clients.values { client.close(promise: nil) }
    }
    try? await group.shutdownGracefully()
    unlink(ControlSocket.path)
  }

  // MARK: For connections

  func ask(_ request: Request, _ peer: Peer, _ client: Connection) {
    call.yield(
      Call(request: request, peer: peer, client: NIOLoopBound(client, eventLoop: eventLoop)))
  }

  func forget(_ client: Connection) { watchers[ObjectIdentifier(client)] = nil }

  // MARK: For the desk, on the event loop

  var hasWatchers: Bool { !watchers.isEmpty }
  var hasRoomForWatcher: Bool { watchers.count < Limits.watchers }

  func watch(_ client: Connection) { watchers[ObjectIdentifier(client)] = client }

  func tellWatchers(_ bytes: ByteBuffer) {
    for client in watchers.values { client.send(bytes) }
  }
}
