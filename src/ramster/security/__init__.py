"""The cluster's certificates, tokens and files of keys. Not: links (`transport`, `node`), or who may join (`node.admission`)."""
