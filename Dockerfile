# Rune in an image: the daemon, or with `replica` the replica that the docker and kubernetes backends start.
#
#   cargo build --release
#   docker build --tag rune:0.1.0 .
#   export RUNE_API_KEY="$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \n')"
#   docker run --detach --publish 127.0.0.1:8080:8080 --publish 127.0.0.1:8081:8081 --env RUNE_API_KEY \
#     --volume rune:/var/lib/rune rune:0.1.0
#   rune run examples/hello
#
# Both APIs listen at every address of the container, so the daemon does not start without authentication: `RUNE_API_KEY`, or
# tokens. examples/docker has the same with a read-only root, limits and tools that are processes.
FROM debian:bookworm-slim

# Python for tools that are `.py`; certificates for the providers of models.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*

RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/rune
ARG BINARY=target/release/rune
COPY ${BINARY} /usr/local/bin/rune

USER 65532:65532
ENV HOME=/var/lib/rune RUNE_DATA_DIR=/var/lib/rune
WORKDIR /var/lib/rune
VOLUME /var/lib/rune
EXPOSE 8080 8081
ENTRYPOINT ["rune"]
CMD ["daemon", "start", "--foreground", "--gateway-addr", "0.0.0.0:8080", "--control-plane-addr", "0.0.0.0:8081"]
