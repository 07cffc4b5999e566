// The codecs that kafkajs does not bring itself.
'use strict'

const { CompressionCodecs, CompressionTypes } = require('kafkajs')
const lz4 = require('lz4-napi')
const snappy = require('snappyjs')
const { ZstdCodec } = require('zstd-codec')

const bytes = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

async function installCodecs() {
  const zstd = await new Promise((resolve) => ZstdCodec.run((module) => resolve(new module.Simple())))
  CompressionCodecs[CompressionTypes.Snappy] = () => ({
    compress: async (encoder) => snappy.compress(encoder.buffer),
    decompress: async (buffer) => snappy.uncompress(buffer),
  })
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    compress: (encoder) => lz4.compressFrame(encoder.buffer),
    decompress: (buffer) => lz4.decompressFrame(buffer),
  })
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async (encoder) => bytes(zstd.compress(encoder.buffer)),
    decompress: async (buffer) => bytes(zstd.decompress(buffer)),
  })
}

module.exports = { installCodecs }
