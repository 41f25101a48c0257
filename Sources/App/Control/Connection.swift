import NIOCore
import NIOHTTP1

/// What one client may cost.
enum Limits {
  /// Bytes of a request with its headers, and of all that wait behind it.
  static let request = 16 * 1024
  /// For a request to be there, for its answer to be made, for it to be read,
  /// and for the next request to come.
  static let time = TimeAmount.seconds(10)
  /// Clients of the local socket at a time; the last few places are root's.
  static let clients = 256
  static let clientsButRoot = 192
  /// More than these at once leave memory behind that is worth giving back.
  static let crowd = 16
  /// Clients that read metrics over the network at a time.
  static let scrapers = 32
  static let watchers = 16
  /// Bytes that a client that watches may leave unread.
  static let unreadByWatcher = 64 * 1024
  /// Bytes of answers that wait for their readers, of all clients. An ordinary
  /// answer goes into the kernel's buffer whole.
  static let unread = 1024 * 1024
  /// Rows in one answer.
  static let rows = 500
}

/// Cuts off whoever sends more than a request may have, before it is parsed.
final class RequestSize: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private var left = Limits.request

  /// The request has been answered.
  func reset() { left = Limits.request }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    left -= unwrapInboundIn(data).readableBytes
    if left >= 0 { return context.fireChannelRead(data) }
    let text = "request larger than \(Limits.request) bytes"
    context.writeAndFlush(wrapOutboundOut(Self.refusal("413 Content Too Large", text)))
      .assumeIsolated().whenComplete { _ in context.close(promise: nil) }
  }

  /// An answer to what has not been parsed.
  static func refusal(_ status: String, _ error: String) -> ByteBuffer {
    let body = "{\"error\":\"\(error)\",\"schema\":\(Reply.schema)}\n"
    return ByteBuffer(
      string: "HTTP/1.1 \(status)\r\nContent-Type: application/json\r\n"
        + "Content-Length: \(body.utf8.count)\r\nConnection: close\r\n\r\n\(body)")
  }
}

/// One client: takes a request after the other to the desk, within limits of
/// time, and writes the answers.
final class Connection: ChannelInboundHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias OutboundOut = HTTPServerResponsePart

  private let peer: Peer
  private let server: ControlServer
  private let size: RequestSize
  private var context: ChannelHandlerContext?
  private var head: HTTPRequestHead?
  private var isWatching = false
  private var unread = 0
  private var deadline: Scheduled<Void>?

  init(_ peer: Peer, server: ControlServer, size: RequestSize) {
    self.peer = peer
    self.server = server
    self.size = size
  }

  // MARK: Coming and going

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    waitFor(context)
  }

  func channelInactive(context: ChannelHandlerContext) {
    deadline?.cancel()
    server.forget(self)
    self.context = nil
    context.fireChannelInactive()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // Not HTTP, or gone: there is nobody to tell.
    context.close(promise: nil)
  }

  /// Closes when nothing has happened by then.
  private func waitFor(_ context: ChannelHandlerContext) {
    deadline?.cancel()
    deadline = context.eventLoop.assumeIsolated().scheduleTask(in: Limits.time) {
      context.close(promise: nil)
    }
  }

  // MARK: Requests

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head): self.head = head
    case .body: break
    case .end:
      guard let head else { return }
      waitFor(context)
      take(head)
    }
  }

  private func take(_ head: HTTPRequestHead) {
    guard peer.rights > .none else {
      return answer(
        Response(
          Problem(.forbidden, "only root and members of group \(ControlSocket.groupName) may ask")))
    }
    let accept = head.headers["Accept"].joined(separator: ",")
    guard let request = Request(method: head.method, target: head.uri, accept: accept) else {
      return answer(Response(Problem(.badRequest, "no such path: \(head.uri)")))
    }
    server.ask(request, peer, self)
  }

  // MARK: Answers

  func answer(_ response: Response) {
    guard let context, let head else { return }
    if server.unread > Limits.unread {
      // Readers are too slow; what they left unread is all that is kept.
      return context.close(promise: nil)
    }
    var headers = HTTPHeaders([("Content-Type", response.contentType)])
    if !response.watches {
      headers.add(name: "Content-Length", value: "\(response.body.readableBytes)")
    }
    let keepAlive = head.isKeepAlive && !response.watches
    if !keepAlive { headers.add(name: "Connection", value: "close") }
    context.write(
      wrapOutboundOut(
        .head(
          HTTPResponseHead(version: head.version, status: response.status, headers: headers))),
      promise: nil)
    if response.watches {
      deadline?.cancel()
      isWatching = true
      context.flush()
      return send(response.body)
    }
    let bytes = response.body.readableBytes
    if head.method != .HEAD {
      context.write(wrapOutboundOut(.body(.byteBuffer(response.body))), promise: nil)
    }
    server.unread += bytes
    self.head = nil
    size.reset()
    context.writeAndFlush(wrapOutboundOut(.end(nil))).assumeIsolated().whenComplete { [self] _ in
      server.unread -= bytes
      guard keepAlive, self.context != nil else { return context.close(promise: nil) }
      waitFor(context)
    }
  }

  /// Sends a part of an answer that has no end; lets go of a client that does
  /// not read.
  func send(_ bytes: ByteBuffer) {
    guard isWatching, let context else { return }
    guard unread + bytes.readableBytes <= Limits.unreadByWatcher else {
      return context.close(promise: nil)
    }
    let count = bytes.readableBytes
    unread += count
    context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(bytes)))).assumeIsolated()
      .whenComplete { [self] _ in unread -= count }
  }
}
